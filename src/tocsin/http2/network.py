"""Where the connections come from: the operating system's sockets, or what takes their place (a simulation).

Nothing else on the client's side of this package opens a socket.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, Protocol

from tocsin.http2.dial import ConnectionType, dial

_BACKLOG: Final = 1024


class Listener(Protocol):
    """A port that takes connections."""

    @property
    def port(self) -> int:
        """The port's number, also where 0 (any free port) was asked for."""

    def close(self) -> None:
        """Take no more connections; those that are open stay open."""

    async def wait_closed(self) -> None:
        """Wait until the port is released; only after `close`."""


class Network(Protocol):
    """Opens connections and listens for them."""

    async def connect(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext,
        factory: Callable[[], ConnectionType],
        *,
        proxy: str | None = None,
        timeout_s: float,
    ) -> ConnectionType:
        """Open a connection that speaks HTTP/2; returns the protocol that `factory` made for it.

        Raises:
            DialError: see `dial`.
        """
        ...

    async def listen(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext | None
    ) -> Listener:
        """Take connections, each with a protocol of its own from `factory`; port 0 is any free one.

        Raises:
            OSError: the port cannot be had.
        """
        ...


class SystemNetwork:
    """The operating system's sockets, by way of the running event loop."""

    async def connect(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext,
        factory: Callable[[], ConnectionType],
        *,
        proxy: str | None = None,
        timeout_s: float,
    ) -> ConnectionType:
        """See `Network.connect`."""
        return await dial(host, port, tls, factory, proxy=proxy, timeout_s=timeout_s)

    async def listen(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext | None
    ) -> Listener:
        """See `Network.listen`."""
        loop = asyncio.get_running_loop()
        return _SystemListener(await loop.create_server(factory, host, port, ssl=tls, backlog=_BACKLOG))


class _SystemListener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._server.close()

    async def wait_closed(self) -> None:
        await self._server.wait_closed()
