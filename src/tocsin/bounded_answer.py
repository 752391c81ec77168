"""Reads an answer of a server that is not trusted to end it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


async def read_bounded(response: httpx.Response, most_bytes: int) -> bytes | None:
    """The body as it came, nothing decompressed; None as soon as it is larger than `most_bytes`."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > most_bytes:
            return None
    return bytes(body)
