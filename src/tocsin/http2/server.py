"""The server's side of HTTP/2: what the emulator stands on.

Batches, as on the client's side: what one read brings is answered with one write. A handler is a plain function; one
that returns None answers later, or never.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import ngh2
from ngh2 import Configuration, Role, Setting

from tocsin.http2.messages import Header

_WINDOW_BYTES: Final = 64 * 1024 * 1024
_STREAM_WINDOW_BYTES: Final = 1024 * 1024


class Reply:
    """An answer: status, header fields, body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Exchange:
    """One request, and whom to answer. Over HTTP/1.1 the pseudo-header fields are filled in alike."""

    __slots__ = ("body", "connection", "headers", "stream_id")

    def __init__(self, connection: Any, stream_id: int, headers: Sequence[Header]) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.headers = headers
        self.body = b""

    def reply(self, reply: Reply) -> None:
        """Answer a request whose handler returned None; ignored where it is no longer wanted."""
        self.connection.answer(self, reply)


Handler = Callable[[Exchange], Reply | None]


class ServerConnection(asyncio.Protocol):
    """One connection, as a server; its methods are all that a fault script needs."""

    def __init__(self, handler: Handler, *, max_streams: int = 1000, client_certificate: bytes | None = None) -> None:
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._engine = ngh2.Connection(
            Role.SERVER,
            Configuration(stream_reset_rate_limit=(1_000_000, 100_000), glitch_rate_limit=(1_000_000, 100_000)),
        )
        self._max_streams = max_streams
        self._transport: asyncio.Transport | None = None
        self._open: dict[int, Exchange] = {}
        self._flush_scheduled = False
        self.last_stream_id = 0
        self._last_processed: int | None = None
        """After a GOAWAY that names a last stream id: what came later is not processed, nor answered."""
        self.requests = 0
        self.peer_certificate = client_certificate
        self.state: dict[str, Any] = {}
        """The application's own, per connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._engine.initiate_connection(
            {
                Setting.MAX_CONCURRENT_STREAMS: self._max_streams,
                Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
            }
        )
        self._engine.set_local_window_size(_WINDOW_BYTES)
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            self._engine.receive_data(data)
            events = self._engine.events()
        except ngh2.NGH2Error:
            self.flush()
            self.abort()
            return
        open_requests = self._open
        for event in events:
            kind = type(event)
            if kind is ngh2.RequestReceived:
                event = cast(ngh2.RequestReceived, event)
                exchange = Exchange(self, event.stream_id, cast(Any, event.headers))
                self.last_stream_id = event.stream_id
                if event.end_stream:
                    self._handle(exchange)
                else:
                    open_requests[event.stream_id] = exchange
            elif kind is ngh2.DataReceived:
                event = cast(ngh2.DataReceived, event)
                found = open_requests.get(event.stream_id)
                if found is not None:
                    found.body = found.body + event.data if found.body else event.data
                    if event.end_stream:
                        del open_requests[event.stream_id]
                        self._handle(found)
            elif kind is ngh2.StreamClosed:
                open_requests.pop(cast(ngh2.StreamClosed, event).stream_id, None)
        self.flush()
        if not self._engine.want_read and not self._engine.want_write and self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open.clear()

    def _handle(self, exchange: Exchange) -> None:
        if self._last_processed is not None and exchange.stream_id > self._last_processed:
            return
        self.requests += 1
        reply = self._handler(exchange)
        if reply is not None:
            self._submit(exchange.stream_id, reply)

    def _submit(self, stream_id: int, reply: Reply) -> None:
        headers = [(b":status", b"%d" % reply.status), *reply.headers]
        try:
            if reply.body:
                self._engine.send_response(stream_id, headers)
                self._engine.send_data(stream_id, reply.body, end_stream=True)
            else:
                self._engine.send_response(stream_id, headers, end_stream=True)
        except ngh2.NGH2Error:
            pass  # the client has given this stream up

    # -- for handlers that answer later, and for faults ----------------------------------------------------------------

    def answer(self, exchange: Exchange, reply: Reply) -> None:
        if self._last_processed is not None and exchange.stream_id > self._last_processed:
            return
        if self._transport is not None:
            self._submit(exchange.stream_id, reply)
            self.flush_soon()

    def flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        self._flush_scheduled = False
        if self._transport is not None:
            data = self._engine.data_to_send()
            if data:
                self._transport.write(data)

    def reset(self, exchange: Exchange, error_code: int) -> None:
        """RST_STREAM."""
        try:
            self._engine.reset_stream(exchange.stream_id, error_code)
        except ngh2.NGH2Error:
            return
        self.flush_soon()

    def goaway(self, last_stream_id: int | None = None, error_code: int = 0, debug: bytes = b"") -> None:
        """GOAWAY: what came after `last_stream_id` (none: the newest) will not be processed."""
        if last_stream_id is not None:
            self._last_processed = last_stream_id
        try:
            self._engine.send_goaway(error_code, last_stream_id=last_stream_id, debug_data=debug)
        except ngh2.NGH2Error:
            return
        self.flush_soon()

    def set_max_streams(self, limit: int) -> None:
        """SETTINGS_MAX_CONCURRENT_STREAMS, now."""
        if limit != self._max_streams:
            self._max_streams = limit
            self._engine.update_settings({Setting.MAX_CONCURRENT_STREAMS: limit})
            self.flush_soon()

    def cut(self, exchange: Exchange, reply: Reply, *, keep_headers: bool) -> None:
        """End the connection in the middle of an answer: within its header fields, or within its body."""
        self.flush()
        if self._transport is None:
            return
        headers = [(b":status", b"%d" % reply.status), *reply.headers]
        try:
            self._engine.send_response(exchange.stream_id, headers)
            head = self._engine.data_to_send()
            self._transport.write(head if keep_headers else head[: max(1, len(head) // 2)])
            if keep_headers and reply.body:
                self._engine.send_data(exchange.stream_id, reply.body, end_stream=True)
                data = self._engine.data_to_send()
                self._transport.write(data[: max(1, len(data) // 2)])
        except ngh2.NGH2Error:
            pass
        self._transport.close()
        self._transport = None

    def pause_reading(self, seconds: float) -> None:
        """A slow reader: takes nothing from the wire for a while."""
        transport = self._transport
        if transport is not None and transport.is_reading():
            transport.pause_reading()
            self._loop.call_later(seconds, lambda: None if transport.is_closing() else transport.resume_reading())

    def close(self) -> None:
        if self._transport is not None:
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


class Switch(asyncio.Protocol):
    """Waits for the TLS handshake to say what the client speaks, then hands the connection over."""

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
