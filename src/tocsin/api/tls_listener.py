"""Accepts connections and makes the TLS handshake of each, which is counted and bounded from its first byte on.

asyncio's own TLS server tells of a connection only after its handshake: until then nobody could count it, or end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

_HANDSHAKE_S: Final = 10.0
_SHUTDOWN_S: Final = 2.0
_WITHOUT_RESOURCES_S: Final = 1.0
"""How long nothing is accepted where there are no file descriptors left, as in asyncio's own server."""


class Served(Protocol):
    """What serves a connection: an `asyncio.Protocol` that wants to know of it before its handshake."""

    def accepted(self, peer: str, end: Callable[[], None]) -> bool:
        """TCP is there; `end` closes it. Returns whether there is to be a handshake."""

    def not_secured(self) -> None:
        """There was no handshake; the connection is closed."""


class TlsListener:
    """Stands in for an `asyncio.Server`, on a socket that listens already. `context` gives what is in force now."""

    def __init__(self, sock: socket.socket, make: Callable[[], Served], context: Callable[[], ssl.SSLContext]) -> None:
        self._sock = sock
        self._make = make
        self._context = context
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self._sock,)

    def close(self) -> None:
        """Accept nothing more, and end the handshakes; the connections that are open stay open."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._sock)
            except ConnectionError:  # It was gone before it could be accepted.
                continue
            except OSError:
                await asyncio.sleep(_WITHOUT_RESOURCES_S)
                continue
            task = loop.create_task(self._secure(connection, address[0]))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _secure(self, connection: socket.socket, peer: str) -> None:
        served = self._make()
        if not served.accepted(peer, lambda: _end(connection)):
            connection.close()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: cast(asyncio.Protocol, served),
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=_HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError:  # ssl.SSLError and the timeout are OSErrors
            served.not_secured()


def _end(connection: socket.socket) -> None:
    # The descriptor is its transport's, which closes it.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
