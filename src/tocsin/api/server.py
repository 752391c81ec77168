"""The API's HTTP server: uvicorn, with bounds on the time and memory that a slow, silent or endless client may take up,
and with one reading of where a request ends.

Errors that uvicorn would answer in plain text are answered here as problems (RFC 9457). The application does not see
these requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, cast

import httptools
import uvicorn
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tocsin.api import refusals
from tocsin.api.client_address import TrustedProxies
from tocsin.api.connections import Connections, Intake
from tocsin.api.framing import FRAMING_FIELDS, expects_continue, head_without_upgrade, refusal
from tocsin.api.refusal_log import RefusalLog
from tocsin.api.refusals import LONGEST_HEAD, Refusal
from tocsin.api.tls import ServerTls
from tocsin.api.tls_listener import TlsListener
from tocsin.http2.messages import Header
from tocsin.settings import Server as ServerSettings

_SWEEP_EVERY_S: Final = 1.0
_KEEP_ALIVE_S: Final = 75
_MOST_PIPELINED: Final = 32
_LINGER_S: Final = 1.0


class _RefusedError(Exception):
    """Raised in a callback of the parser: nothing else stops it from parsing the rest of what has arrived."""


class Shared(Struct, frozen=True):
    """What all connections of a server have in common."""

    connections: Connections
    refused: RefusalLog


class BoundedProtocol(HttpToolsProtocol):
    """Bounds what uvicorn does not: the number of connections, the size of a request's head, the time a request takes
    to arrive, and the time and memory that unread responses take up. `ApiServer` regularly asks each connection whether
    it is `overdue`.
    """

    idle_since: float | None = None
    """See `connections.Held`."""
    _intake: Intake | None = None
    """None until there is a connection."""
    _end: Callable[[], None]
    """Closes it at once."""
    _receiving_since: float | None = None
    _unread_since: float | None = None
    _unfinished_bytes = 0
    """Bytes since the last complete head, piece of a body, or message. The parser copies them each time more arrive."""
    _refused = False
    _framing: list[Header]
    """The fields of the head that `framing` looks at."""
    _usual_framing: list[Header] | None = None
    """Those of an earlier request, in HTTP/1.1. Most requests of a connection have the same."""

    def __init__(self, shared: Shared, **given: Any) -> None:
        super().__init__(**given)
        self._shared = shared

    def accepted(self, peer: str, end: Callable[[], None]) -> bool:
        """See `tls_listener.Served`. The connection counts from now on, also while it is in the handshake of TLS."""
        self._end = end
        self._intake = self._shared.connections.accept(self, peer)
        if self._intake is Intake.TAKEN:
            return True
        full = self._intake is not Intake.ADDRESS_FULL
        self._shared.refused.count(Refusal.FULL if full else Refusal.ADDRESS_FULL)
        if self._intake is Intake.DROPPED:
            self._shared.connections.ended(self)
            return False
        # Answered when its request comes: some clients take a response before their request for an error.
        self.loop.call_later(_LINGER_S, lambda: self._end())
        return True

    def not_secured(self) -> None:
        """There was no TLS handshake."""
        self._shared.connections.ended(self)
        self._shared.refused.count(Refusal.HANDSHAKE)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        if self._intake is None and not self.accepted(peer[0] if peer else "", transport.abort):
            transport.abort()
        self._end = transport.abort
        super().connection_made(transport)
        self._receiving_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.connections.ended(self)
        super().connection_lost(exc)

    def give_way(self) -> None:
        """See `connections.Held`."""
        self._end()

    def cut(self) -> None:
        """End at once: the client was too slow."""
        self._shared.refused.count(Refusal.TOO_SLOW)
        # Not `close`: it waits until the client has read everything.
        self._end()

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
        if self._intake is not Intake.TAKEN:
            self._refuse(refusals.ADDRESS_FULL if self._intake is Intake.ADDRESS_FULL else refusals.FULL)
            return
        if self.idle_since is not None:
            self._shared.connections.used(self)
        if self._receiving_since is None:
            self._receiving_since = self.loop.time()
        self._unfinished_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._unfinished_bytes > LONGEST_HEAD and not self._refused:
            self._refuse(refusals.HEAD_TOO_LONG, Refusal.HEAD_TOO_LONG)

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
        if self._unfinished_bytes > LONGEST_HEAD and self._head_bytes() > LONGEST_HEAD:
            self._refuse(refusals.HEAD_TOO_LONG, Refusal.HEAD_TOO_LONG)
            raise _RefusedError
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._shared.refused.count(Refusal.TOO_MANY_PIPELINED)
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
        if self.cycle.response_complete:
            self._shared.connections.idle(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._receiving_since is None and self.cycle.response_complete:
            self._shared.connections.idle(self)

    def _parse(self, data: bytes) -> None:
        """Parse what has arrived. A request that offers another protocol is parsed again, without the offer: the parser
        takes whatever follows such a head for the other protocol's, and then for the next request."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                method = self.parser.get_method()
                if method == b"CONNECT":
                    self._refuse(refusals.TUNNEL, Refusal.MALFORMED)
                    return
                head = head_without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            except httptools.HttpParserError:
                if not self._refused:
                    self._refuse(refusals.NOT_HTTP, Refusal.MALFORMED)
                return
            else:
                return

    def _check_framing(self) -> None:
        version, framing = self.parser.get_http_version(), self._framing
        why = refusal(version, framing)
        if why is not None:
            self._refuse(refusals.malformed(why), Refusal.MALFORMED)
            raise _RefusedError
        self.expect_100_continue = expects_continue(framing)
        if version == "1.1" and not self.expect_100_continue:
            self._usual_framing = framing

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _refuse(self, answer: bytes, counted: Refusal | None = None) -> None:
        """Send `answer` and read no further. The connection is closed later: closing it with bytes unread resets it,
        and the client may then not get the answer."""
        self._refused = True
        if counted is not None:
            self._shared.refused.count(counted)
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
        if self.transport.can_write_eof():  # TLS cannot.
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.abort)


class ApiServer(uvicorn.Server):
    """uvicorn in the service's event loop, over TLS where `tls` is given. It handles no signals: the service does."""

    def __init__(self, app: Any, settings: ServerSettings, tls: ServerTls | None = None) -> None:
        loop = asyncio.get_running_loop()
        proxies = TrustedProxies(settings.trusted_proxies, settings.forwarded_header)
        self.shared = Shared(
            Connections(
                settings.max_connections, settings.max_connections_per_address, proxies.may_be_limited, loop.time
            ),
            RefusalLog(loop.time),
        )
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=partial(BoundedProtocol, self.shared),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                # uvicorn would believe any proxy on this machine, and whatever `FORWARDED_ALLOW_IPS` names.
                proxy_headers=False,
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(settings.drain_s),
            )
        )
        self._tls = tls
        self.listening = asyncio.Event()
        self._request_timeout_s = settings.request_timeout_s
        self._sweeping: asyncio.TimerHandle | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            if self._tls is None or sockets is None:
                await super().startup(sockets)
            else:
                self._listen_with_tls(sockets, self._tls)
            self._sweep()
        finally:
            self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        await super().shutdown(sockets)
        self.shared.refused.report(last=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _listen_with_tls(self, sockets: list[socket.socket], tls: ServerTls) -> None:
        def make() -> BoundedProtocol:
            return BoundedProtocol(self.shared, config=self.config, server_state=self.server_state, app_state={})

        self.servers = [TlsListener(sock, make, lambda: tls.context) for sock in sockets]  # type: ignore[misc]
        self.started = True

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.server_state.connections):
            protocol = cast(BoundedProtocol, connection)
            if protocol.overdue(loop.time(), self._request_timeout_s):
                protocol.cut()
        self.shared.connections.sweep()
        self.shared.refused.report()
        self._sweeping = loop.call_later(_SWEEP_EVERY_S, self._sweep)
