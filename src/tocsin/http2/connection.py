"""One multiplexed HTTP/2 connection, as a client: an asyncio.Protocol over the sans-I/O engine.

It works in batches: what one read brings is handled as a whole, and answered with one write. It never opens, retries
or chooses anything: that is the pool's part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import ngh2
from ngh2 import Configuration, ErrorCode, Role, Setting

from tocsin.http2.messages import Failure, FailureKind, Request

_WINDOW_BYTES: Final = 16 * 1024 * 1024
_STREAM_WINDOW_BYTES: Final = 1024 * 1024
# RFC 9113, 5.1.1: a stream id has 31 bits and is used once. Leave before they run out.
_LAST_STREAM_ID: Final = 2**31 - 1 - 2 * 100_000
_ANSWER_LIMIT_BYTES: Final = 64 * 1024
_SLICE: Final = 64


class Owner(Protocol):
    """Who a connection reports to."""

    def finished(self, requests: list[Request]) -> None:
        """These ended: with a status, or with a failure."""

    def replay(self, requests: list[Request]) -> None:
        """These were certainly not processed (RFC 9113, 8.7) and may be sent again elsewhere."""

    def changed(self, connection: Connection) -> None:
        """There may be room again, or less of it; or the connection is on its way out."""

    def ended(self, connection: Connection) -> None:
        """Closed; nothing more comes of it."""


class Connection(asyncio.Protocol):
    """A client's side of one connection.

    The peer's SETTINGS_MAX_CONCURRENT_STREAMS is obeyed as it changes; until its first SETTINGS frame one stream is
    assumed, as Apple asks for at the start.
    """

    def __init__(self, owner: Owner, *, max_streams: int) -> None:
        self._owner = owner
        self._max_streams = max_streams
        self._loop = asyncio.get_running_loop()
        self._engine = ngh2.Connection(
            Role.CLIENT, Configuration(peer_max_concurrent_streams=1, max_inbound_header_list_size=32 * 1024)
        )
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Request] = {}
        self._limit = 1
        self._writable = True
        self._flush_scheduled = False
        self._heard = self._loop.time()
        self._pinged: float | None = None
        self.opened_at = self._loop.time()
        self.answered = 0
        """Requests that got an answer of whatever kind."""
        self.given_up = False
        """Closed by this side, and not for anything that the peer did."""
        self._settings_seen = False
        self.draining = False
        """No new requests: the peer said GOAWAY, or the stream ids run out."""
        self.closed = False

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1024 * 1024)
        self._engine.initiate_connection({Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES})
        self._engine.set_local_window_size(_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._pinged = None
        try:
            self._engine.receive_data(data)
            self._handle(self._engine.events())
        except ngh2.NGH2Error as error:
            self._end(f"protocol error: {error}")
            return
        self._flush()
        if not self.closed and not self._streams and (self.draining or not self._engine.want_read):
            self.close()
        self._owner.changed(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._owner.changed(self)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc else "closed by the peer")

    # -- for the pool --------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._streams)

    @property
    def room(self) -> int:
        """How many more requests may be sent now."""
        if self.draining or self.closed or not self._writable:
            return 0
        return max(0, min(self._limit, self._max_streams) - len(self._streams))

    def send(self, requests: Sequence[Request]) -> None:
        """Send requests, no more than there is room for; they go out with the next write of this turn of the loop."""
        engine, streams = self._engine, self._streams
        for index, request in enumerate(requests):
            try:
                body = request.body
                stream_id = engine.send_request(request.headers, end_stream=not body)
                if body:
                    engine.send_data(stream_id, body, end_stream=True)
            except ngh2.NGH2Error:
                # The engine takes no more (GOAWAY, ids used up): nothing of these was sent.
                self.draining = True
                self._owner.replay(list(requests[index:]))
                break
            streams[stream_id] = request
        if not self.draining and engine.next_stream_id > _LAST_STREAM_ID:
            self.draining = True
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def check(self, now: float, *, request_timeout_s: float, ping_after_s: float, ping_timeout_s: float) -> None:
        """Called about once a second: end requests past their deadline, and a connection that no longer answers."""
        if self.closed:
            return
        late: list[Request] = []
        for stream_id, request in list(self._streams.items()):
            if request.started > now - request_timeout_s:
                continue
            del self._streams[stream_id]
            self._engine.reset_stream(stream_id, ErrorCode.CANCEL)
            request.failure = Failure(FailureKind.TIMEOUT, f"no answer within {request_timeout_s:g} s", unknown=True)
            late.append(request)
        if self._pinged is not None:
            if now - self._pinged > ping_timeout_s:
                self._end(f"a PING was not answered within {ping_timeout_s:g} s")
        elif now - self._heard > ping_after_s:
            self._pinged = now
            self._engine.ping(b"\x00" * 8)
        self._flush()
        if late:
            self._owner.finished(late)
            self._owner.changed(self)

    def close(self) -> None:
        """Say goodbye and close; what is in flight fails as lost."""
        if self.closed:
            return
        self.given_up = True
        try:
            self._engine.send_goaway(0)
            self._flush()
        except ngh2.NGH2Error:
            pass  # already on its way out
        self._end("closed by tocsin")

    # -- within --------------------------------------------------------------------------------------------------------

    def _handle(self, events: list[Any]) -> None:
        """Every event of one read, in slices: whoever waits for room sends on while the rest is still looked at.

        Answers that came together would go on coming together, and the wire would idle in between. The engine's events
        are told apart by their type alone: this loop runs a few times per delivery, and calls nothing that it need not.
        """
        finished: list[Request] = []
        replay: list[Request] = []
        streams = self._streams
        for event in events:
            kind = type(event)
            if kind is ngh2.ResponseReceived:
                request = streams.get(event.stream_id)
                if request is None:
                    continue
                headers = event.headers
                request.status = int(headers[0][1])
                request.response_headers = headers
                if not event.end_stream:
                    continue
                del streams[event.stream_id]
                finished.append(request)
            elif kind is ngh2.DataReceived:
                request = streams.get(event.stream_id)
                if request is None:
                    continue
                if len(request.response_body) < _ANSWER_LIMIT_BYTES:
                    request.response_body += event.data
                if not event.end_stream:
                    continue
                del streams[event.stream_id]
                finished.append(request)
            elif kind is ngh2.StreamClosed:
                request = streams.pop(event.stream_id, None)
                if request is not None:
                    self._closed_early(request, event, finished, replay)
                continue
            elif kind is ngh2.SettingsReceived:
                # Absent means that it stays; never sent means no limit (RFC 9113, 6.5.2).
                known = Setting.MAX_CONCURRENT_STREAMS in event.settings
                if known or not self._settings_seen:
                    self._settings_seen = True
                    self._limit = min(event.settings.get(Setting.MAX_CONCURRENT_STREAMS, 2**31), 2**31)
                continue
            elif kind is ngh2.GoAwayReceived or kind is ngh2.ConnectionClosed:
                self.draining = True
                continue
            else:
                continue
            if len(finished) >= _SLICE:
                self.answered += len(finished)
                self._owner.finished(finished)
                finished = []
                self._owner.changed(self)
                self._flush()
        if replay:
            self._owner.replay(replay)
        if finished:
            self.answered += len(finished)
            self._owner.finished(finished)

    def _closed_early(self, request: Request, event: Any, finished: list[Request], replay: list[Request]) -> None:
        """A stream that ended before its answer did: by a reset, or because the peer will not process it."""
        if request.status and event.error_code == ErrorCode.NO_ERROR:
            finished.append(request)
        elif event.local_error is not None or event.error_code == ErrorCode.REFUSED_STREAM:
            replay.append(request)
        else:
            request.status = 0
            why = f"stream reset by the peer ({_error_name(event.error_code)})"
            request.failure = Failure(FailureKind.RESET, why, unknown=True)
            finished.append(request)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._transport is None or self.closed:
            return
        try:
            data = self._engine.data_to_send()
        except ngh2.NGH2Error as error:
            self._end(f"protocol error: {error}")
            return
        if data:
            self._transport.write(data)
        if self.draining and self._streams:
            # Requests that a GOAWAY overtook, unwritten: the engine turns them back when it is asked for what to write.
            self._handle(self._engine.events())
            if not self._streams:
                self._loop.call_soon(self.close)

    def _end(self, why: str) -> None:
        if self.closed:
            return
        self.closed = self.draining = True
        lost = list(self._streams.values())
        self._streams.clear()
        for request in lost:
            request.status = 0
            request.failure = Failure(FailureKind.LOST, f"connection lost: {why}", unknown=True)
        if self._transport is not None:
            self._transport.close()
            # A peer that no longer reads would keep the transport open for ever.
            self._loop.call_later(5, self._transport.abort)
        if lost:
            self._owner.finished(lost)
        self._owner.ended(self)


def _error_name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"
