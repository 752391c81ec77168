"""The whole of an HTTP/1.1 answer after which the connection ends, for where no application answers."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus


def last_answer(status: HTTPStatus, media_type: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    all_headers = {"content-type": media_type, "content-length": len(body), "connection": "close", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode() + body
