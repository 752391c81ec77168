"""A real PgBouncer in transaction mode, between a store and the PostgreSQL of the tests.

It is no wheel: the tests that need it are skipped where it is not installed. It refuses to be run by root.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from typing import Final

import pytest

from tests.support.children import end_with_parent
from tests.support.postgres_server import SUPERUSER, PostgresServer, as_user, directory_for_servers
from tests.torture.processes import free_ports

_PROGRAM: Final = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
_START_S: Final = 30.0
_STOP_S: Final = 10.0

SETTINGS: Final = {
    "pool_mode": "transaction",
    "server_login_retry": "1",
    "query_wait_timeout": "10",
    "idle_transaction_timeout": "10",
}
"""Those of docs/scale.md."""

needs_pgbouncer: Final = pytest.mark.skipif(
    _PROGRAM is None, reason="PgBouncer is not installed (Debian: apt-get install pgbouncer)"
)


class PgBouncer:
    """One, on a port of 127.0.0.1. After a restart its port is the same."""

    def __init__(self, server: PostgresServer) -> None:
        self.port = free_ports(1)
        self.directory = directory_for_servers()
        self._server = server
        self._config = self.directory / "pgbouncer.ini"
        self._log = self.directory / "pgbouncer.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _configure(self, databases: Mapping[str, str]) -> None:
        server = f"host=127.0.0.1 port={self._server.port} user={SUPERUSER}"
        settings = {
            "auth_type": "any",
            "unix_socket_dir": "",
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            # So few that what relies on having the same server connection again fails soon.
            "default_pool_size": 4,
            **SETTINGS,
        }
        lines = [
            "[databases]",
            *[f"{name} = {server} dbname={another}" for name, another in databases.items()],
            f"* = {server}",
            "[pgbouncer]",
            *[f"{name} = {value}" for name, value in settings.items()],
        ]
        self._config.write_text("\n".join(lines) + "\n")

    def url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def start(self, **databases: str) -> PgBouncer:
        """`databases`: which of them leads to which other one."""
        assert _PROGRAM is not None
        self._configure(databases)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [_PROGRAM, str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent(signal.SIGKILL),
                cwd=self.directory,
                **as_user(),
            )
        until = time.monotonic() + _START_S
        while not self._listens():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_STOP_S)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0
