"""The header fields that every response has, so that no browser does with it what the API does not want.

Source: OWASP, "HTTP Headers Cheat Sheet"; RFC 6797 (Strict-Transport-Security); RFC 9111, 5.2.2.5 (no-store).
"""

from __future__ import annotations

from typing import Final

from litestar.types import HTTPScope, Message, Send

from tocsin.http2.messages import Header

ALWAYS: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    # The platform's convention has the session in the URL.
    (b"referrer-policy", b"no-referrer"),
)
_NO_STORE: Final = (b"cache-control", b"no-store")
_OVER_TLS: Final = (*ALWAYS, (b"strict-transport-security", b"max-age=31536000"))
_PUBLIC: Final = "/schema"
"""Under it is the description of the API, which is the same for everybody: it may be kept."""


def with_usual_headers(scope: HTTPScope, send: Send) -> Send:
    """`send`, with these fields in the response. What is not public is not stored, unless the response says more."""
    usual = _OVER_TLS if scope.get("scheme") == "https" else ALWAYS
    private = not scope["path"].startswith(_PUBLIC)

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *usual]
            if private and not any(name == b"cache-control" for name, _ in headers):
                headers.append(_NO_STORE)
            message["headers"] = headers
        await send(message)

    return send_with
