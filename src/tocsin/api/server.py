"""The API's HTTP server: uvicorn, with bounds on the time and memory that a slow, silent or endless client may take up,
and with one reading of where a request ends.

Errors that uvicorn would answer in plain text are answered here as problems (RFC 9457). The application does not see
these requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tocsin.api.final_response import final_response
from tocsin.api.framing import FRAMING_FIELDS, expects_continue, head_without_upgrade, refusal
from tocsin.api.problems import PROBLEM_JSON, TYPE_PREFIX, Kind, ProblemBody
from tocsin.http2.messages import Header
from tocsin.settings import Server as ServerSettings

_SWEEP_EVERY_S: Final = 1.0
_KEEP_ALIVE_S: Final = 75
_LONGEST_HEAD: Final = 64 * 1024
_MOST_PIPELINED: Final = 32
_REFUSED_AT_ONCE: Final = 256
"""So many connections over the limit are answered with 503; further ones are closed without an answer."""
_LINGER_S: Final = 1.0


def _final_problem(
    status: HTTPStatus, detail: str, type_: str = "about:blank", title: str = "", retry_after_s: int | None = None
) -> bytes:
    """A problem as a whole response. The type `about:blank`: the status says it all."""
    body = msgspec.json.encode(ProblemBody(type_, title or status.phrase, status, detail))
    headers = {"cache-control": "no-store"}
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    return final_response(status, PROBLEM_JSON, body, headers)


def _malformed(detail: str) -> bytes:
    return _final_problem(HTTPStatus.BAD_REQUEST, detail, TYPE_PREFIX + Kind.MALFORMED.slug, Kind.MALFORMED.title)


_NOT_HTTP: Final = _malformed("This is not HTTP.")
_TUNNEL: Final = _malformed("The server opens no tunnels.")
_HEAD_TOO_LONG: Final = _final_problem(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"Address and headers are larger than {_LONGEST_HEAD} bytes."
)
_FULL: Final = _final_problem(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections. Try again later.", retry_after_s=1)


class _RefusedError(Exception):
    """Raised in a callback of the parser: nothing else stops it from parsing the rest of what has arrived."""


class BoundedProtocol(HttpToolsProtocol):
    """Bounds what uvicorn does not: the size of a request's head, the time a request takes to arrive, and the time and
    memory that unread responses take up. `ApiServer` regularly asks each connection whether it is `overdue`.
    """

    _receiving_since: float | None = None
    _unread_since: float | None = None
    _unfinished_bytes = 0
    """Bytes since the last complete head, piece of a body, or message. The parser copies them each time more arrive."""
    _over_limit = False
    _refused = False
    _framing: list[Header]
    """The fields of the head that `framing` looks at."""
    _usual_framing: list[Header] | None = None
    """Those of an earlier request, in HTTP/1.1. Most requests of a connection have the same."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._receiving_since = self.loop.time()
        most = cast(int, self.config.limit_concurrency)
        # uvicorn would apply the limit to all connections, and refuse the requests of the older ones, too.
        self.limit_concurrency = None
        if len(self.connections) > most + _REFUSED_AT_ONCE:
            transport.abort()
        elif len(self.connections) > most:
            # Answered when its request comes: some clients take a response before their request for an error.
            self._over_limit = True
            self.loop.call_later(_LINGER_S, transport.abort)

    def overdue(self, now: float, timeout_s: float) -> bool:
        """Whether the client has taken too long to send a request, or to read a response."""
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        if self.flow.read_paused and self._receiving_since is not None:
            self._receiving_since = now  # The client waits for the application, which does not read.
        return any(
            since is not None and since < now - timeout_s for since in (self._receiving_since, self._unread_since)
        )

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._over_limit:
            self._refuse(_FULL)
            return
        if self._receiving_since is None:
            self._receiving_since = self.loop.time()
        self._unfinished_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._unfinished_bytes > _LONGEST_HEAD and not self._refused:
            self._refuse(_HEAD_TOO_LONG)

    def on_message_begin(self) -> None:
        if self._receiving_since is None:
            self._receiving_since = self.loop.time()
        super().on_message_begin()
        self._framing = []

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in FRAMING_FIELDS:
            self._framing.append((name, value))
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # `_parse` will have it parsed again.
        if self._unfinished_bytes > _LONGEST_HEAD and self._head_bytes() > _LONGEST_HEAD:
            self._refuse(_HEAD_TOO_LONG)
            raise _RefusedError
        if len(self.pipeline) >= _MOST_PIPELINED:
            self.transport.abort()
            raise _RefusedError
        if self._framing != self._usual_framing or self.parser.get_http_version() != "1.1":
            self._check_framing()
        self._unfinished_bytes = 0
        super().on_headers_complete()
        # The request has its list. What comes after the body (trailers) goes to lists that nobody reads.
        self.headers = self._framing = []

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._unfinished_bytes = 0
        self._receiving_since = None
        super().on_message_complete()

    def _parse(self, data: bytes) -> None:
        """Parse what has arrived. A request that offers another protocol is parsed again, without the offer: the parser
        takes whatever follows such a head for the other protocol's, and then for the next request."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                method = self.parser.get_method()
                if method == b"CONNECT":
                    self._refuse(_TUNNEL)
                    return
                head = head_without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            except httptools.HttpParserError:
                if not self._refused:
                    self._refuse(_NOT_HTTP)
                return
            else:
                return

    def _check_framing(self) -> None:
        version, framing = self.parser.get_http_version(), self._framing
        why = refusal(version, framing)
        if why is not None:
            self._refuse(_malformed(why))
            raise _RefusedError
        self.expect_100_continue = expects_continue(framing)
        if version == "1.1" and not self.expect_100_continue:
            self._usual_framing = framing

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _refuse(self, answer: bytes) -> None:
        """Send `answer` and read no further. The connection is closed later: closing it with bytes unread resets it,
        and the client may then not get the answer."""
        self._refused = True
        cycle = self.cycle
        if cycle is not None and (cycle.more_body or not cycle.response_complete):
            if cycle.response_started or self.pipeline or not cycle.more_body:
                # The client would take it for the answer to another request.
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if self.transport.is_closing():
            return
        self.flow.pause_reading()
        self.transport.write(answer)
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.abort)


class ApiServer(uvicorn.Server):
    """uvicorn in the service's event loop. It handles no signals: the service does."""

    def __init__(self, app: Any, settings: ServerSettings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                limit_concurrency=settings.max_connections,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(settings.drain_s),
            )
        )
        self.listening = asyncio.Event()
        self._request_timeout_s = settings.request_timeout_s
        self._sweeping: asyncio.TimerHandle | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
            self._sweep()
        finally:
            self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.server_state.connections):
            protocol = cast(BoundedProtocol, connection)
            if protocol.overdue(loop.time(), self._request_timeout_s):
                # Not `close`: it waits until the client has read everything.
                protocol.transport.abort()
        self._sweeping = loop.call_later(_SWEEP_EVERY_S, self._sweep)
