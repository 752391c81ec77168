"""A server that cannot start says why."""

from __future__ import annotations

import subprocess
import sys

from tests.system.house import House
from tests.torture.processes import environment, free_ports


def _serve(house: House, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tocsin.cli", "serve", "--config", str(house.server.config)],
        env=environment({f"TOCSIN_{name}": value for name, value in settings.items()}),
        cwd=house.directory,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_second_server_on_the_same_file_is_refused_with_a_clear_message(shared: House) -> None:
    refused = _serve(shared, SERVER__PORT=str(free_ports(1)))
    assert refused.returncode == 1
    assert "another tocsin server is using it" in refused.stderr
    assert str(shared.server.database) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_that_is_taken_is_named_in_a_clear_message(shared: House) -> None:
    refused = _serve(shared, STORE__PATH=str(shared.directory / "other.db"))
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{shared.server.port}" in refused.stderr
    assert "server.port" in refused.stderr
    assert "Traceback" not in refused.stderr
