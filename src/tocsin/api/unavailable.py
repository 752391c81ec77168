"""Answers for a service that cannot start yet: 503 to every request, until its store can be used. `/api/push` answers
in its own convention.

It parses only the first line of a request, and accepts nothing.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec

from tocsin.api.failures import Respond, problem_of
from tocsin.api.final_response import final_response
from tocsin.api.health import Live, Ready
from tocsin.api.problems import problem_response, response_headers
from tocsin.api.push import PATH
from tocsin.api.tls import ServerTls
from tocsin.store.ports import StoreUnavailable

_BACKLOG: Final = 2048
_CONNECTION_TIMEOUT_S: Final = 10.0
"""How long a connection may take, from its request to the end of the answer."""
_TLS_SHUTDOWN_S: Final = 2.0
_LONGEST_HEAD: Final = 64 * 1024
_PROBLEM: Final = problem_of(StoreUnavailable(), "")


class Reason:
    """Why the store cannot be used. It may be changed."""

    def __init__(self, text: str) -> None:
        self.text = text


class Unavailable:
    """The server until then, on a socket that listens already. At the end of `async with` another may use the socket.

    `/health/ready` tells `reason`; without one it tells nobody, for no key can be looked up. With `tls` it speaks TLS,
    with the certificate as it was read last. `push_refused` answers for `/api/push`.
    """

    def __init__(
        self,
        sock: socket.socket,
        reason: Reason | None = None,
        tls: ServerTls | None = None,
        push_refused: Respond = problem_response,
    ) -> None:
        self._sock = sock
        self._push_refused = push_refused
        self._reason = reason
        self._tls = tls
        self.connections: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Unavailable:
        # A duplicate of the descriptor: closing it leaves the connections that still wait to the next server.
        loop = asyncio.get_running_loop()
        bounds: dict[str, Any] = {}
        if self._tls is not None:
            bounds = {
                "ssl": self._tls.context,
                "ssl_handshake_timeout": _CONNECTION_TIMEOUT_S,
                "ssl_shutdown_timeout": _TLS_SHUTDOWN_S,
            }
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=self._sock.dup(), backlog=_BACKLOG, **bounds
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for transport in list(self.connections):
            transport.close()

    def answer(self, method: str, path: str) -> bytes:
        """The whole HTTP/1.1 response. The connection ends after it."""
        response = (self._push_refused if path == PATH else problem_response)(_PROBLEM)
        status, media_type, body = HTTPStatus(response.status_code or 200), str(response.media_type), response.content
        match path:
            case "/health/live":  # To restart the process would not help.
                status, media_type, body = HTTPStatus.OK, "application/json", msgspec.json.encode(Live())
            case "/health/ready":
                ready = Ready(False)
                if self._reason is not None:
                    ready = Ready(False, [f"the store cannot be used: {self._reason.text}"], [])
                media_type, body = "application/json", msgspec.json.encode(ready)
        answer = final_response(status, media_type, body, response_headers(_PROBLEM))
        return answer.removesuffix(body) if method == "HEAD" else answer


class _Connection(asyncio.Protocol):
    """One request. Its body is read and discarded: closing the connection with bytes unread resets it, and the client
    may then not get the answer."""

    def __init__(self, server: Unavailable) -> None:
        self._server = server
        self._head = b""
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self._transport)
        self._timeout = asyncio.get_running_loop().call_later(_CONNECTION_TIMEOUT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._answer()
        elif len(self._head) > _LONGEST_HEAD:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timeout.cancel()
        self._server.connections.discard(self._transport)

    def _answer(self) -> None:
        method, _, rest = self._head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        self._answered, self._head = True, b""
        self._transport.write(self._server.answer(method, path))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS
            self._transport.close()
