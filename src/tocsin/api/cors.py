"""Lets the web pages that a setting lists call `/api/push` from the browser, and no others.

Without these header fields a browser refuses a page of another origin what the API answers, and does not send what
needs to be asked for first (a preflight request). Source: Fetch, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from litestar.types import HTTPScope, Message, Send

from tocsin.api.auth import header
from tocsin.http2.messages import Header

_PREFLIGHT: Final[tuple[Header, ...]] = (
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (b"access-control-allow-headers", b"authorization, content-type"),
    (b"access-control-max-age", b"600"),
)
_EXPOSED: Final[Header] = (b"access-control-expose-headers", b"retry-after")


class Cors:
    """The origins that may call `path`, with the user's cookie, too."""

    def __init__(self, origins: Iterable[str], path: str) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._path = path

    def allows(self, scope: HTTPScope) -> bool:
        """Whether a page of a listed origin sends this request."""
        return bool(self._origins) and scope["path"] == self._path and header(scope, b"origin") in self._origins

    def is_preflight(self, scope: HTTPScope) -> bool:
        """Whether the browser asks first, for a page that may call."""
        return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None

    async def answer_preflight(self, scope: HTTPScope, send: Send) -> None:
        headers = [*self._allowing(scope), *_PREFLIGHT]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def with_permission(self, scope: HTTPScope, send: Send) -> Send:
        """`send`, with the permission to read the response."""

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._allowing(scope), _EXPOSED]
            await send(message)

        return send_with

    @staticmethod
    def _allowing(scope: HTTPScope) -> list[Header]:
        origin = header(scope, b"origin") or b""
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-credentials", b"true"),
            (b"vary", b"Origin"),
        ]
