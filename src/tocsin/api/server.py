"""The API's HTTP server: uvicorn, with bounds on what a slow or silent client may hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tocsin.settings import Server as ServerSettings

_SWEEP_EVERY_S: Final = 1.0
_KEEP_ALIVE_S: Final = 75


class BoundedProtocol(HttpToolsProtocol):
    """Remembers since when a request has been arriving; the server's sweep closes what takes too long.

    uvicorn bounds idle keep-alive connections, but not a client that sends one header a minute (slowloris).
    """

    receiving_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.receiving_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self.receiving_since is None:
            self.receiving_since = self.loop.time()
        super().data_received(data)

    def on_message_complete(self) -> None:
        self.receiving_since = None
        super().on_message_complete()


class ApiServer(uvicorn.Server):
    """uvicorn in the service's own loop; signals are the service's to handle."""

    def __init__(self, app: Any, settings: ServerSettings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                limit_concurrency=settings.max_connections,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(settings.drain_s),
            )
        )
        self.listening = asyncio.Event()
        self._request_timeout_s = settings.request_timeout_s
        self._sweeping: asyncio.TimerHandle | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
            self._sweep()
        finally:
            self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._request_timeout_s
        for connection in list(self.server_state.connections):
            protocol = cast(BoundedProtocol, connection)
            if protocol.receiving_since is not None and protocol.receiving_since < oldest:
                protocol.transport.close()
        self._sweeping = loop.call_later(_SWEEP_EVERY_S, self._sweep)
