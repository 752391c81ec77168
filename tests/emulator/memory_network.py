"""A network within one process: connections without sockets and without TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

Client = TypeVar("Client", bound=asyncio.Protocol)


class MemoryTransport(asyncio.Transport):
    """One side of a connection; what is written is received by `peer`."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.BaseProtocol | None = None
        self._closing = False
        self.peer: MemoryTransport | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def write(self, data: Any) -> None:
        if self.peer is not None and not self._closing:
            self._loop.call_soon(self.peer.receive, bytes(data))

    def receive(self, data: bytes) -> None:
        if isinstance(self._protocol, asyncio.Protocol) and not self._closing:
            self._protocol.data_received(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        for side in (self, self.peer):
            if side is not None and not side._closing:
                side._closing = True
                self._loop.call_soon(side._connection_lost)

    def abort(self) -> None:
        self.close()

    def _connection_lost(self) -> None:
        if self._protocol is not None:
            self._protocol.connection_lost(None)


class MemoryListener:
    """A port of a `MemoryNetwork`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.closed = self.released = False

    def close(self) -> None:
        self.closed = True

    async def wait_closed(self) -> None:
        assert self.closed
        self.released = True


class MemoryNetwork:
    """Connects protocols to the listeners of the same network; see `tocsin.http2.network.Network`."""

    def __init__(self) -> None:
        self._factories: dict[int, Callable[[], asyncio.Protocol]] = {}
        self.listeners: list[MemoryListener] = []

    async def listen(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext | None
    ) -> MemoryListener:
        number = port or 1000 + len(self._factories)
        self._factories[number] = factory
        self.listeners.append(MemoryListener(number))
        return self.listeners[-1]

    async def connect(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        factory: Callable[[], Client],
        *,
        proxy: str | None = None,
        timeout_s: float = 5,
    ) -> Client:
        client_side, server_side = MemoryTransport(), MemoryTransport()
        client_side.peer, server_side.peer = server_side, client_side
        server, client = self._factories[port](), factory()
        server_side.set_protocol(server)
        client_side.set_protocol(client)
        server.connection_made(server_side)
        client.connection_made(client_side)
        return client
