"""The TLS handshake of a client's connection, which is bounded and counted from its first byte on.

asyncio's own TLS server tells of a connection only after its handshake: until then nobody could count it, or end it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

_HANDSHAKE_S: Final = 10.0
_SHUTDOWN_S: Final = 2.0


class Secured(Protocol):
    """What serves the connection after the handshake."""

    def accepted(self, transport: asyncio.Transport) -> None:
        """TCP is there; it may be refused by aborting the transport."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def not_secured(self) -> None:
        """There was no handshake; the connection is closed."""


class Handshaking(asyncio.Protocol):
    """Makes the handshake, and hands the connection to `serve` then. `context` gives what is in force now."""

    def __init__(self, serve: Secured, context: Callable[[], ssl.SSLContext]) -> None:
        self._serve = serve
        self._context = context
        self._early = bytearray()
        """What the client has sent with the end of its handshake."""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._serve.accepted(transport)
        if transport.is_closing():
            self._serve.not_secured()
            return
        # `start_tls` reads: nothing may be read before it has put its own protocol in place.
        transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._secure(transport))

    def data_received(self, data: bytes) -> None:
        self._early += data

    async def _secure(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport,
                self,
                self._context(),
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except (OSError, EOFError):  # ssl.SSLError and the timeout are OSErrors
            transport.abort()
            self._serve.not_secured()
            return
        if secured is None or secured.is_closing():  # It was ended meanwhile.
            self._serve.not_secured()
            return
        secured.set_protocol(cast(asyncio.Protocol, self._serve))
        self._serve.connection_made(secured)
        if self._early:
            self._serve.data_received(bytes(self._early))
