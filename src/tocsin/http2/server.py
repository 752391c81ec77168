"""The server's side of an HTTP/2 connection, for the emulator and for tests.

It works in batches, as the client's side does: what one read brings is answered with one write. There is no task and no
log line per request.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import ngh2
from ngh2 import Configuration, DataReceived, RequestReceived, Role, Setting, StreamClosed, TrailersReceived

from tocsin.http2.exchange import Exchange, Handler, Reply
from tocsin.http2.odd_scheme import SchemeRepair
from tocsin.http2.switch import Switch

__all__ = ["Exchange", "Handler", "Reply", "ServerConnection", "Switch"]

_WINDOW_BYTES: Final = 64 * 1024 * 1024
_STREAM_WINDOW_BYTES: Final = 1024 * 1024
_MOST_BODY_BYTES: Final = 1024 * 1024
_HIGHEST_STREAM_ID: Final = 2**31 - 1
_GRACE_S: Final = 0.1
"""Between the notice of a graceful shutdown and its GOAWAY: a round trip (RFC 9113, 6.8)."""

_LINGER_S: Final = 0.2

_STATUS_FIELDS: Final = {status: (b":status", b"%d" % status) for status in range(100, 600)}


class ServerConnection(asyncio.Protocol):
    """An `exchange.ServedConnection` over HTTP/2.

    Args:
        handler: gets each complete request.
        max_streams: SETTINGS_MAX_CONCURRENT_STREAMS at the start.
        client_certificate: DER.
        registry: contains this connection while it is open.
        takes_odd_scheme: whether a request whose `:scheme` is `https:` is answered, and not reset.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        max_streams: int = 1000,
        client_certificate: bytes | None = None,
        registry: set[asyncio.Protocol] | None = None,
        takes_odd_scheme: bool = False,
    ) -> None:
        self._handler = handler
        self._repair = SchemeRepair() if takes_odd_scheme else None
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        # The engine limits resets and protocol oddities per second, against attackers; a fault script makes many.
        self._engine = ngh2.Connection(
            Role.SERVER,
            Configuration(stream_reset_rate_limit=(1_000_000, 100_000), glitch_rate_limit=(1_000_000, 100_000)),
        )
        self._max_streams = max_streams
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._open: dict[int, Exchange] = {}
        self._ceiling = _HIGHEST_STREAM_ID
        """Requests above this stream id are not handled: a GOAWAY excludes them, or the connection has been cut."""
        self._flush_scheduled = False
        self._done = False
        """The engine will neither write nor read any more: what still arrives is dropped."""
        self.newest_handled = 0
        self.requests = 0
        self.peer_certificate = client_certificate
        self.state: dict[str, Any] = {}

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
        repair = self._repair
        if repair is not None:
            data = repair.feed(data)
            if repair.needless:
                repair = self._repair = None
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
                headers = event.headers if repair is None else repair.as_sent(event.headers)
                exchange = open_exchanges[event.stream_id] = Exchange(self, event.stream_id, headers)
                if event.end_stream:
                    self._handle(exchange)
            elif kind is StreamClosed:
                open_exchanges.pop(event.stream_id, None)
            elif kind is TrailersReceived:
                # They end a request, too; their fields are ignored.
                exchange = open_exchanges.get(event.stream_id)
                if exchange is not None:
                    self._handle(exchange)
        self.flush()

    def pause_writing(self) -> None:
        # Answers wait in the engine meanwhile; the stream limit bounds them.
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
        return len(self._open)

    def answer(self, exchange: Exchange, reply: Reply) -> None:
        if self._open.pop(exchange.stream_id, None) is not None:
            self._submit(exchange.stream_id, reply)
            self._flush_soon()

    def flush(self) -> None:
        """Write what the engine has; close when the engine has ended the connection."""
        self._flush_scheduled = False
        transport = self._transport
        if transport is None or not self._writable:
            return
        data = self._engine.data_to_send()
        if data:
            transport.write(data)
        if not self._done and not self._engine.want_read and not self._engine.want_write:
            # Not at once: TCP resets a connection that is closed with unread bytes (RFC 1122, 4.2.2.13), and the client
            # might then never read the GOAWAY that has just been written.
            self._done = True
            self._loop.call_later(_LINGER_S, transport.close)

    # -- for fault scripts ---------------------------------------------------------------------------------------------

    def reset(self, exchange: Exchange, error_code: int) -> None:
        self._open.pop(exchange.stream_id, None)
        try:
            self._engine.reset_stream(exchange.stream_id, error_code)
        except ngh2.NGH2Error:
            return
        self._flush_soon()

    def goaway(self, last_stream_id: int | None = None, error_code: int = 0, debug: bytes = b"") -> None:
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
        try:
            self._engine.send_shutdown_notice()
        except ngh2.NGH2Error:
            return
        self._flush_soon()
        self._loop.call_later(_GRACE_S, self.goaway)

    def set_max_streams(self, limit: int) -> None:
        if limit != self._max_streams:
            self._max_streams = limit
            self._engine.update_settings({Setting.MAX_CONCURRENT_STREAMS: limit})
            self._flush_soon()

    def cut(self, exchange: Exchange, reply: Reply, *, keep_headers: bool) -> None:
        self.flush()
        transport = self._transport
        if transport is None:
            return
        try:
            self._engine.send_response(exchange.stream_id, [_STATUS_FIELDS[reply.status], *reply.headers])
            head = self._engine.data_to_send()
            transport.write(head if keep_headers else head[: max(1, len(head) // 2)])
            if keep_headers and reply.content:
                self._engine.send_data(exchange.stream_id, reply.content, end_stream=True)
                data = self._engine.data_to_send()
                transport.write(data[: max(1, len(data) // 2)])
        except ngh2.NGH2Error:
            pass  # the client has given this stream up; the connection ends all the same
        self._ceiling = -1
        self._transport = None
        transport.close()

    def pause_reading(self, seconds: float) -> None:
        transport = self._transport
        if transport is not None and transport.is_reading():
            transport.pause_reading()
            self._loop.call_later(seconds, lambda: None if transport.is_closing() else transport.resume_reading())

    def close(self) -> None:
        self.flush()
        self._ceiling = -1
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
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
            content = reply.body and reply.content
            if content:
                self._engine.send_response(stream_id, headers)
                self._engine.send_data(stream_id, content, end_stream=True)
            else:
                self._engine.send_response(stream_id, headers, end_stream=True)
        except ngh2.NGH2Error:
            pass  # the client has given this stream up

    def _flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)
