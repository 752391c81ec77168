"""Reads a request's body: checks its content type, and limits its size and the time it takes to arrive.

Reading stops as soon as a limit is exceeded; the server discards what the client sends after that.
"""

from __future__ import annotations

import asyncio

from litestar.types import HTTPScope, Receive

from tocsin.api.auth import header
from tocsin.api.problems import Kind, RequestError

JSON = "application/json"
NDJSON = "application/x-ndjson"
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


def content_type(scope: HTTPScope, *allowed: str) -> str:
    """Which of the `allowed` media types the body has; the first one where the request has no content type.

    Raises:
        RequestError: it has another content type, another charset than UTF-8, or a content encoding.
    """
    coding = header(scope, b"content-encoding")
    if coding and coding.strip().lower() != b"identity":
        raise RequestError(Kind.WRONG_CONTENT_TYPE, "Send the body without a content encoding.")
    value = header(scope, b"content-type")
    if value == b"application/json" and JSON in allowed:
        return JSON
    if value is None or not value.strip():
        return allowed[0]
    media_type, *parameters = (part.strip().lower() for part in value.decode("latin-1").split(";"))
    charsets = [part.partition("=")[2].strip().strip('"') for part in parameters if part.startswith("charset")]
    if media_type not in allowed or any(charset not in _CHARSETS for charset in charsets):
        raise RequestError(Kind.WRONG_CONTENT_TYPE, f"The body must be {' or '.join(allowed)}, in UTF-8.")
    return media_type


def announced_bytes(scope: HTTPScope) -> int | None:
    """The value of `Content-Length`; None where there is none, or none that makes sense."""
    value = header(scope, b"content-length")
    return int(value) if value is not None and value.isdigit() and len(value) < 19 else None


async def read_body(scope: HTTPScope, receive: Receive, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        RequestError: it is larger than `limit_bytes`, or takes longer than `timeout_s` to arrive.
    """
    announced = announced_bytes(scope)
    if announced is not None and announced > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(receive, limit_bytes)
    except TimeoutError:
        raise RequestError(Kind.TOO_SLOW, f"The body did not arrive within {timeout_s:g} seconds.") from None


async def _read(receive: Receive, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RequestError(Kind.MALFORMED, "The connection ended before the body did.")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else chunk
        chunks.append(chunk)


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(Kind.TOO_LARGE, f"The body is larger than {limit_bytes} bytes.")
