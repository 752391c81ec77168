"""An HTTP/1.1 response as bytes, for where the application does not answer. The connection ends after it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from tocsin.api.response_headers import ALWAYS


def final_response(status: HTTPStatus, media_type: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """The whole response, with `Connection: close`."""
    usual = {"cache-control": "no-store"} | {name.decode(): value.decode() for name, value in ALWAYS}
    all_headers = (
        {"content-type": media_type, "content-length": len(body), "connection": "close"} | usual | dict(headers)
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode() + body
