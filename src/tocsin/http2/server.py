"""The server's side of HTTP/2: what the emulator stands on.

Batches, as on the client's side: what one read brings is answered with one write. A handler is a plain function; one
that returns None answers later, or never. There is no task and no log line per request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import ngh2
from msgspec import Struct
from ngh2 import Configuration, DataReceived, RequestReceived, Role, Setting, StreamClosed, TrailersReceived

from tocsin.http2.messages import Header

_WINDOW_BYTES: Final = 64 * 1024 * 1024
_STREAM_WINDOW_BYTES: Final = 1024 * 1024
_MOST_BODY_BYTES: Final = 1024 * 1024
_HIGHEST_STREAM_ID: Final = 2**31 - 1
_GRACE_S: Final = 0.1
"""Between the notice of a graceful shutdown and its GOAWAY: a round trip, for requests that are on their way."""

_LINGER_S: Final = 0.2

_STATUS_FIELDS: Final = {status: (b":status", b"%d" % status) for status in range(100, 600)}


class Reply(Struct, frozen=True):
    """An answer: status, header fields, body."""

    status: int
    headers: Sequence[Header] = ()
    body: bytes = b""


class Exchange(Struct, eq=False):
    """One request, and whom to answer. Over HTTP/1.1 the pseudo-header fields are filled in alike.

    A Struct for its speed: one of these is made per request.
    """

    connection: Any
    stream_id: int
    headers: Sequence[Header]
    body: bytes = b""

    def reply(self, reply: Reply) -> None:
        """Answer a request whose handler returned None; ignored where it is no longer wanted."""
        self.connection.answer(self, reply)


Handler = Callable[[Exchange], Reply | None]


class ServerConnection(asyncio.Protocol):
    """One connection, as a server; its methods are all that a fault script needs.

    While it is open it is in `registry`, where one is given.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        max_streams: int = 1000,
        client_certificate: bytes | None = None,
        registry: set[asyncio.Protocol] | None = None,
    ) -> None:
        self._handler = handler
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        # The engine's limits on resets and oddities are against attackers; who tests a sender makes many on purpose.
        self._engine = ngh2.Connection(
            Role.SERVER,
            Configuration(stream_reset_rate_limit=(1_000_000, 100_000), glitch_rate_limit=(1_000_000, 100_000)),
        )
        self._max_streams = max_streams
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._open: dict[int, Exchange] = {}
        self._ceiling = _HIGHEST_STREAM_ID
        """Requests above this stream id are not handled: a GOAWAY has said so, or the connection has been cut."""
        self._flush_scheduled = False
        self._done = False
        """The engine has nothing left to say or to hear: what still arrives is dropped."""
        self.newest_handled = 0
        """The highest stream id of a request that was given to the handler."""
        self.requests = 0
        self.peer_certificate = client_certificate
        """DER."""
        self.state: dict[str, Any] = {}
        """The application's own, per connection."""

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._registry is not None:
            self._registry.add(self)
        self._engine.initiate_connection(
            {
                Setting.MAX_CONCURRENT_STREAMS: self._max_streams,
                Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
            }
        )
        self._engine.set_local_window_size(_WINDOW_BYTES)
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self._done:
            return
        try:
            self._engine.receive_data(data)
            events = cast(list[Any], self._engine.events())
        except ngh2.NGH2Error:
            self.flush()
            self.abort()
            return
        open_exchanges = self._open
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                exchange = open_exchanges.get(event.stream_id)
                if exchange is not None:
                    if not exchange.body:
                        exchange.body = event.data
                    elif len(exchange.body) < _MOST_BODY_BYTES:
                        exchange.body += event.data
                    if event.end_stream:
                        self._handle(exchange)
            elif kind is RequestReceived:
                exchange = open_exchanges[event.stream_id] = Exchange(self, event.stream_id, event.headers)
                if event.end_stream:
                    self._handle(exchange)
            elif kind is StreamClosed:
                open_exchanges.pop(event.stream_id, None)
            elif kind is TrailersReceived:
                # They end a request, too; what they say is of no interest here.
                exchange = open_exchanges.get(event.stream_id)
                if exchange is not None:
                    self._handle(exchange)
        self.flush()

    def pause_writing(self) -> None:
        # What is answered meanwhile waits in the engine; the stream limit bounds it.
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ceiling = -1
        self._open.clear()
        if self._registry is not None:
            self._registry.discard(self)

    # -- for handlers that answer later --------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests that have begun and are not answered."""
        return len(self._open)

    def answer(self, exchange: Exchange, reply: Reply) -> None:
        if self._open.pop(exchange.stream_id, None) is not None:
            self._submit(exchange.stream_id, reply)
            self._flush_soon()

    def flush(self) -> None:
        """Write what the engine has; close when it is done with this connection."""
        self._flush_scheduled = False
        transport = self._transport
        if transport is None or not self._writable:
            return
        data = self._engine.data_to_send()
        if data:
            transport.write(data)
        if not self._done and not self._engine.want_read and not self._engine.want_write:
            # Not at once: with bytes of the client's still unread, TCP would answer by a reset, and the GOAWAY that has
            # just been written would be lost with it.
            self._done = True
            self._loop.call_later(_LINGER_S, transport.close)

    # -- for faults ----------------------------------------------------------------------------------------------------

    def reset(self, exchange: Exchange, error_code: int) -> None:
        """RST_STREAM."""
        self._open.pop(exchange.stream_id, None)
        try:
            self._engine.reset_stream(exchange.stream_id, error_code)
        except ngh2.NGH2Error:
            return
        self._flush_soon()

    def goaway(self, last_stream_id: int | None = None, error_code: int = 0, debug: bytes = b"") -> None:
        """GOAWAY: what came after `last_stream_id` (none: the newest that has arrived) will not be processed.

        The others are answered, then the connection closes.
        """
        try:
            self._engine.send_goaway(error_code, last_stream_id=last_stream_id, debug_data=debug)
        except ngh2.NGH2Error:
            return
        if last_stream_id is not None:
            self._ceiling = min(self._ceiling, last_stream_id)
            for stream_id in [stream_id for stream_id in self._open if stream_id > last_stream_id]:
                del self._open[stream_id]
        self._flush_soon()

    def goaway_gracefully(self) -> None:
        """RFC 9113, 6.8: a notice first, the GOAWAY a moment later, so that nothing on its way is turned back."""
        try:
            self._engine.send_shutdown_notice()
        except ngh2.NGH2Error:
            return
        self._flush_soon()
        self._loop.call_later(_GRACE_S, self.goaway)

    def set_max_streams(self, limit: int) -> None:
        """SETTINGS_MAX_CONCURRENT_STREAMS, now."""
        if limit != self._max_streams:
            self._max_streams = limit
            self._engine.update_settings({Setting.MAX_CONCURRENT_STREAMS: limit})
            self._flush_soon()

    def cut(self, exchange: Exchange, reply: Reply, *, keep_headers: bool) -> None:
        """End the connection in the middle of an answer: within its header fields, or within its body."""
        self.flush()
        transport = self._transport
        if transport is None:
            return
        try:
            self._engine.send_response(exchange.stream_id, [_STATUS_FIELDS[reply.status], *reply.headers])
            head = self._engine.data_to_send()
            transport.write(head if keep_headers else head[: max(1, len(head) // 2)])
            if keep_headers and reply.body:
                self._engine.send_data(exchange.stream_id, reply.body, end_stream=True)
                data = self._engine.data_to_send()
                transport.write(data[: max(1, len(data) // 2)])
        except ngh2.NGH2Error:
            pass  # the client has given this stream up; the connection ends all the same
        self._ceiling = -1
        self._transport = None
        transport.close()

    def pause_reading(self, seconds: float) -> None:
        """A slow reader: takes nothing from the wire for a while."""
        transport = self._transport
        if transport is not None and transport.is_reading():
            transport.pause_reading()
            self._loop.call_later(seconds, lambda: None if transport.is_closing() else transport.resume_reading())

    def close(self) -> None:
        """Write what is ready, then end the connection; what is unanswered stays so."""
        self.flush()
        self._ceiling = -1
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once, without another byte."""
        self._ceiling = -1
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # -- within --------------------------------------------------------------------------------------------------------

    def _handle(self, exchange: Exchange) -> None:
        stream_id = exchange.stream_id
        if stream_id > self._ceiling:
            return
        self.requests += 1
        reply = self._handler(exchange)
        if stream_id > self.newest_handled and stream_id <= self._ceiling:
            self.newest_handled = stream_id
        if reply is not None:
            self._open.pop(stream_id, None)
            self._submit(stream_id, reply)

    def _submit(self, stream_id: int, reply: Reply) -> None:
        headers = [_STATUS_FIELDS[reply.status], *reply.headers]
        try:
            if reply.body:
                self._engine.send_response(stream_id, headers)
                self._engine.send_data(stream_id, reply.body, end_stream=True)
            else:
                self._engine.send_response(stream_id, headers, end_stream=True)
        except ngh2.NGH2Error:
            pass  # the client has given this stream up

    def _flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)


class Switch(asyncio.Protocol):
    """Waits for the TLS handshake to say what the client speaks, then hands the connection over.

    `choose` is told the ALPN protocol and the client's certificate (DER), and may refuse with None.
    """

    def __init__(self, choose: Callable[[str | None, bytes | None], asyncio.Protocol | None]) -> None:
        self._choose = choose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = cast(ssl.SSLObject | None, transport.get_extra_info("ssl_object"))
        protocol = self._choose(
            tls.selected_alpn_protocol() if tls is not None else None,
            tls.getpeercert(binary_form=True) if tls is not None else None,
        )
        if protocol is None:
            cast(asyncio.Transport, transport).abort()
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
