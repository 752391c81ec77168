"""Selects HTTP/1.1 or HTTP/2 on a connection without TLS, where ALPN cannot do it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

_PREFACE_START: Final = b"PRI"
"""The start of the client connection preface of HTTP/2 (RFC 9113, 3.4). No HTTP/1.1 request starts with it."""


class PrefaceSwitch(asyncio.Protocol):
    """Replaces itself by the protocol that `choose` returns for the first bytes of the client.

    `choose` gets `h2` or `http/1.1`, the names that ALPN uses.
    """

    def __init__(self, choose: Callable[[str], asyncio.Protocol]) -> None:
        self._choose = choose
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop; all bytes received so far are passed on to the new protocol."""
        self._received += data
        if self._transport is None or len(self._received) < len(_PREFACE_START):
            return
        protocol = self._choose("h2" if self._received.startswith(_PREFACE_START) else "http/1.1")
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._received)


class ClosingProtocol(asyncio.Protocol):
    """Closes the connection at once, with a reset."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        cast(asyncio.Transport, transport).abort()
