"""JSON requests over plain HTTP to this machine. By `http.client`, which never uses a proxy."""

from __future__ import annotations

import http.client
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from tocsin.cli.errors import CommandError

_TIMEOUT_S: Final = 15.0


def call(method: str, url: str, body: Any = None, *, bearer: str | None = None) -> Any:
    """Send one request, and return the JSON of the response.

    Raises:
        CommandError: there was no response, or one that is not a success; the message says which.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S)
    headers = {"content-type": "application/json"} if body is not None else {}
    headers |= {"authorization": f"Bearer {bearer}"} if bearer else {}
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, None if body is None else msgspec.json.encode(body), headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"{method} {url}: no answer: {error}") from None
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        raise CommandError(f"{method} {url}: answered {response.status}: {content[:500].decode(errors='replace')}")
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise CommandError(f"{method} {url}: the answer is not JSON: {error}") from None
