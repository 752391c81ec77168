"""Which protocol a server speaks on a connection, by what TLS has agreed on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast


class Switch(asyncio.Protocol):
    """Replaces itself, after the TLS handshake, by the protocol that `choose` returns.

    `choose` is told the ALPN protocol and the client's certificate (DER), each None without; None refuses.
    """

    def __init__(self, choose: Callable[[str | None, bytes | None], asyncio.Protocol | None]) -> None:
        self._choose = choose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = cast(ssl.SSLObject | None, transport.get_extra_info("ssl_object"))
        protocol = self._choose(
            tls.selected_alpn_protocol() if tls is not None else None,
            tls.getpeercert(binary_form=True) if tls is not None else None,
        )
        if protocol is None:
            cast(asyncio.Transport, transport).abort()
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
