"""Answers for a service that cannot start yet: 503 to everybody, until its store can be used.

Never reads a request beyond its head, and accepts nothing.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import Final, cast

import msgspec

from tocsin.api.failures import problem_of
from tocsin.api.health import Live, Ready
from tocsin.api.last_answer import last_answer
from tocsin.api.problems import problem_response, response_headers
from tocsin.store.ports import StoreUnavailable

_BACKLOG: Final = 2048
_PATIENCE_S: Final = 10.0
"""How long a connection may take, with its request and with reading the answer."""
_LONGEST_HEAD: Final = 64 * 1024
_PROBLEM: Final = problem_of(StoreUnavailable(), "")


class Unavailable:
    """The interim server on a socket that listens already; left with `async with`, the socket is free for the next.

    `reason` is what `/health/ready` tells.
    """

    def __init__(self, sock: socket.socket, reason: str) -> None:
        self._sock = sock
        self.reason = reason
        self.connections: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Unavailable:
        # A descriptor of its own for the same queue of connections: who waits in it is served by whoever comes next.
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=self._sock.dup(), backlog=_BACKLOG)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for transport in list(self.connections):
            transport.close()

    def answer(self, method: str, path: str) -> bytes:
        """The whole of an HTTP/1.1 answer, after which the connection ends."""
        response = problem_response(_PROBLEM)
        status, media_type, body = HTTPStatus.SERVICE_UNAVAILABLE, str(response.media_type), response.content
        match path:
            case "/health/live":  # It is: whoever restarted it now would gain nothing.
                status, media_type, body = HTTPStatus.OK, "application/json", msgspec.json.encode(Live())
            case "/health/ready":
                ready = Ready(False, [f"the store cannot be used: {self.reason}"], [])
                media_type, body = "application/json", msgspec.json.encode(ready)
        answer = last_answer(status, media_type, body, response_headers(_PROBLEM))
        return answer.removesuffix(body) if method == "HEAD" else answer


class _Connection(asyncio.Protocol):
    """One request. Its body is let go by: closing on it would reset the connection, and with it the answer."""

    def __init__(self, server: Unavailable) -> None:
        self._server = server
        self._head = b""
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self._transport)
        self._patience = asyncio.get_running_loop().call_later(_PATIENCE_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._answer()
        elif len(self._head) > _LONGEST_HEAD:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        self._server.connections.discard(self._transport)

    def _answer(self) -> None:
        method, _, rest = self._head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        self._answered, self._head = True, b""
        self._transport.write(self._server.answer(method, path))
        if self._transport.can_write_eof():
            self._transport.write_eof()
