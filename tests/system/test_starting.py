"""A server that cannot start says why. Where only its disk fails at present, it waits and answers 503 meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.system.running_system import EVENTS, RunningSystem, eventually
from tests.torture.disk import KINDS
from tests.torture.http_client import NoResponse, Response
from tests.torture.processes import environment, free_ports


def _serve(system: RunningSystem, **settings: str) -> subprocess.CompletedProcess[str]:
    settings = {"SERVER__PRIVATE_HOST": f"127.0.0.1:{free_ports(1)}", **settings}
    return subprocess.run(
        [sys.executable, "-m", "tocsin.cli", "serve", "--config", str(system.server.config)],
        env=environment({f"TOCSIN_{name}": value for name, value in settings.items()}),
        cwd=system.directory,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_second_server_on_the_same_file_is_refused_with_a_clear_message(shared: RunningSystem) -> None:
    refused = _serve(shared, SERVER__PORT=str(free_ports(1)))
    assert refused.returncode == 1
    assert "another tocsin server is using it" in refused.stderr
    assert str(shared.server.database) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_that_is_taken_is_named_in_a_clear_message(shared: RunningSystem) -> None:
    refused = _serve(shared, STORE__PATH=str(shared.directory / "other.db"))
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{shared.server.port}" in refused.stderr
    assert "server.port" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_private_address_that_is_taken_is_named_in_a_clear_message(shared: RunningSystem) -> None:
    taken = f"127.0.0.1:{shared.server.private_port}"
    refused = _serve(shared, SERVER__PORT=str(free_ports(1)), SERVER__PRIVATE_HOST=taken)
    assert refused.returncode == 1
    assert f"cannot listen on {taken}" in refused.stderr
    assert "server.private_host" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_file_that_is_no_database_ends_it_with_a_clear_message(shared: RunningSystem, tmp_path: Path) -> None:
    (tmp_path / "diary.db").write_bytes(b"Dear diary, " * 1000)
    refused = _serve(shared, STORE__PATH=str(tmp_path / "diary.db"), SERVER__PORT=str(free_ports(1)))
    assert refused.returncode == 1
    assert "not a SQLite database" in refused.stderr
    assert "Traceback" not in refused.stderr


# -- a disk that fails, and works again --------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def system(tmp_path: Path) -> AsyncIterator[RunningSystem]:
    """For one test, with a disk that can be made to fail."""
    system = RunningSystem(tmp_path)
    try:
        yield await system.open(disk=True)
    finally:
        system.close()


def _break(system: RunningSystem, kind: str) -> None:
    assert system.disk is not None
    if not system.disk.shim:
        pytest.skip(reason="without a C compiler the shim that makes the disk fail cannot be built")
    system.disk.break_(kind)


async def _start_again(system: RunningSystem) -> Response:
    """Whether it is ready, and why not, as soon as the server listens again."""
    responses: list[Response] = []

    async def answered() -> bool:
        assert system.server.running, system.explain()
        with contextlib.suppress(NoResponse):
            responses.append(await system.health())
        return bool(responses)

    system.server.kill()
    await system.server.start(wait=False)
    await eventually(answered, 20, system.explain)
    return responses[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_starts_on_a_failing_disk_refuses_everything_and_works_without_a_restart_once_it_is_mended(
    system: RunningSystem, kind: str
) -> None:
    user = await system.user()
    _break(system, kind)
    starting = await _start_again(system)
    assert starting.status == 503
    assert starting.headers["retry-after"].isdigit()
    assert starting.json()["ready"] is False
    assert "the disk" in starting.json()["problems"][0]
    assert str(system.directory) not in starting.body.decode()
    public = await system.get("/health/ready")
    assert (public.status, public.json()) == (503, {"ready": False})
    refused = await system.post(system.events(user, 2000))
    assert (refused.status, refused.headers["content-type"]) == (503, "application/problem+json")
    assert refused.headers["retry-after"].isdigit()
    assert refused.json()["type"] == "urn:tocsin:problem:store-unavailable"
    assert (await system.get("/health/live")).status == 200
    await asyncio.sleep(1.5)  # it has tried again by then
    assert system.server.running, system.explain()
    log = system.server.log.read_text()
    assert log.count("every request is answered 503") == 1
    assert "still cannot be used" not in log
    assert "the store cannot write" not in log
    starts = system.server.starts
    assert system.disk is not None
    system.disk.mend()
    await system.server.ready(15)
    assert (system.server.starts, await system.problems()) == (starts, [])
    await system.all_received(await system.send(user, 20))
    assert len(system.received()) == 20, "what was refused was delivered"


async def test_a_server_that_starts_on_a_locked_file_serves_once_it_is_released(system: RunningSystem) -> None:
    system.server.kill()
    other = sqlite3.connect(system.server.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    starting = await _start_again(system)
    assert "locked by another process" in starting.json()["problems"][0]
    other.close()
    await system.server.ready(20)
    assert await system.problems() == []


@pytest.mark.parametrize("convention", ["document", "platform"])
async def test_while_the_store_cannot_be_opened_api_push_is_refused_in_its_own_convention(
    tmp_path: Path, convention: str
) -> None:
    system = RunningSystem(tmp_path, {"push_api": {"convention": convention}})
    try:
        await system.open()
        system.server.kill()
        other = sqlite3.connect(system.server.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await _start_again(system)
        refused = await system.get("/api/push")
        elsewhere = await system.get(EVENTS)
        other.close()
    finally:
        system.close()
    assert refused.headers["retry-after"].isdigit()
    if convention == "platform":
        assert (refused.status, refused.headers["content-type"]) == (200, "application/json")
        assert refused.json()["status"] == "fail"
        assert "The store cannot be used" in refused.json()["message"]
    else:
        assert (refused.status, refused.json()["type"]) == (503, "urn:tocsin:problem:store-unavailable")
    assert (elsewhere.status, elsewhere.headers["content-type"]) == (503, "application/problem+json")


async def test_sigterm_ends_a_server_that_waits_for_its_disk(system: RunningSystem) -> None:
    _break(system, "no space left")
    assert (await _start_again(system)).status == 503
    assert (await system.get(EVENTS)).status == 503
    assert await asyncio.to_thread(system.server.terminate) == 0
