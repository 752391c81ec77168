"""One multiplexed HTTP/2 connection, as a client: an asyncio.Protocol over the sans-I/O engine.

It works in batches: what one read brings is handled as a whole, and answered with one write. It never opens a
connection, and never chooses which requests it gets: that is the pool's part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, cast

import ngh2
from ngh2 import (
    Configuration,
    ConnectionClosed,
    DataReceived,
    ErrorCode,
    GoAwayReceived,
    NGH2Error,
    ResponseReceived,
    Role,
    Setting,
    SettingsReceived,
    StreamClosed,
)

from tocsin.http2.held import Held
from tocsin.http2.messages import Failure, FailureKind, R
from tocsin.http2.resets import may_be_resent
from tocsin.http2.state import State
from tocsin.http2.tls_transport import Asked

_WINDOW_BYTES: Final = 16 * 1024 * 1024
_STREAM_WINDOW_BYTES: Final = 1024 * 1024
# RFC 9113, 5.1.1: a stream id has 31 bits and is used once. Drain before they run out.
_LAST_STREAM_ID: Final = 2**31 - 1 - 2 * 100_000
_ANSWER_LIMIT_BYTES: Final = 64 * 1024
# What a peer may send, apart from answers: 4 MiB in a burst, and 64 KiB a second. For each answer it may send as much
# as the longest one has, header fields included. Floods of all kinds (bodies, 1xx, PING, unknown frames) end here.
_BURST_BYTES: Final = 4 * 1024 * 1024
_PER_SECOND_BYTES: Final = 64 * 1024
_PER_ANSWER_BYTES: Final = _ANSWER_LIMIT_BYTES + 32 * 1024
_WRITE_BYTES: Final = 32 * 1024
"""What is written at a time: about as much as the answers of one read bring about. What the engine has beyond that can
still be taken back."""
_SLICE: Final = 64
_A_MOMENT_S: Final = 1.0
_FEW_ANSWERS: Final = 10
_SUSPECT_AFTER_S: Final = 1.0
"""A connection on which requests time out is asked by PING when nothing was read for so long: else it is alive."""
# Tuples of their own, because reading a member from its enum costs more than a call; the most frequent comes first.
_USABLE: Final = (State.ACTIVE, State.OPENING)
_CLOSED: Final = (State.CLOSED, State.LOST)


class Owner(Protocol[R]):
    """What a connection reports to: its pool."""

    def finished(self, requests: list[R]) -> None:
        """These ended: with a status, or with a failure."""

    def resend(self, requests: list[R]) -> None:
        """These were certainly not processed and may be sent again, here or elsewhere (RFC 9113, 8.7)."""

    def withdrawn(self, requests: list[R]) -> Sequence[R]:
        """Which of these, of which nothing or not all was written, are no longer wanted."""

    def revoked(self, requests: list[R]) -> bool:
        """Whether one of these, which may be written in part, must not reach the peer if that can still be helped."""

    def changed(self, connection: Connection[R]) -> None:
        """There may be more or less room, or the state has changed."""

    def useless(self, connection: Connection[R], why: str) -> None:
        """It takes no new requests any more, not by this side's wish, before it was of use: it has answered none, or
        only few and was opened a moment ago. The next connection must not be opened in a hurry."""

    def goaway(self) -> None:
        """The peer has sent GOAWAY: counted."""

    def ended(self, connection: Connection[R]) -> None:
        """The connection is closed; nothing more is reported of it."""


class Connection(Asked, Generic[R]):
    """The client's side of one connection.

    The peer's SETTINGS_MAX_CONCURRENT_STREAMS is obeyed as it changes (RFC 9113, 5.1.2).

    Args:
        owner: gets the requests back.
        max_streams: never more requests in flight than this, whatever more the peer allows.
        may_send: asked before every write that could carry a part of a request, see `_flush`.
    """

    def __init__(self, owner: Owner[R], *, max_streams: int, may_send: Callable[[], bool]) -> None:
        self._owner = owner
        self._max_streams = max_streams
        self._may_send = may_send
        self._loop = asyncio.get_running_loop()
        self._engine = ngh2.Connection(
            Role.CLIENT, Configuration(peer_max_concurrent_streams=1, max_inbound_header_list_size=32 * 1024)
        )
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, R] = {}
        self._limit = 1
        # The next two are about writing, in whatever state the connection is: no part of `state`.
        self._writable = True
        self._flush_scheduled = False
        self._held: Held[R] = Held(self._streams, self._engine.queued_body_size)
        self._without_streams: float | None = None
        """Since when the peer allows no stream at all (`loop.time()`)."""
        self._allowed_bytes = _BURST_BYTES
        """What the peer may still send before it has answered something."""
        self._heard = self._loop.time()
        self._pinged: float | None = None
        """Since when a PING waits for its answer: no new requests meanwhile."""
        self.opened_at = self._loop.time()
        self.answered = 0
        """Requests that got a status."""
        self.state = State.OPENING

    def __repr__(self) -> str:
        return (
            f"<Connection {self.state.name}, {self.in_flight} in flight,"
            f" limit {min(self._limit, self._max_streams)}, {self.answered} answered>"
        )

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._engine.initiate_connection({Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES})
        self._engine.set_local_window_size(_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._pinged = None
        answered = self.answered
        try:
            self._engine.receive_data(data)
            self._handle(self._engine.events())
        except NGH2Error as error:
            self._end(State.LOST, f"protocol error: {error}")
            return
        allowed = self._allowed_bytes + (self.answered - answered) * _PER_ANSWER_BYTES - len(data)
        self._allowed_bytes = allowed if allowed < _BURST_BYTES else _BURST_BYTES
        if allowed < 0:
            self._end(State.LOST, "the peer sends more than any answers need")
            return
        self._flush()
        if not self._engine.want_read:
            self._ended_by_engine()
        elif not self._streams and self.state not in _USABLE:
            self.close()
        self._owner.changed(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._flush()
        self._owner.changed(self)

    def may_go_on(self) -> bool:
        """See `Asked`. The rest of a write may hold parts of requests."""
        return self._may_send() and not (self._held.at_risk and self._owner.revoked(self._held.at_risk))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(State.LOST, str(exc) if exc else "closed by the peer")

    # -- for the pool --------------------------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """It takes new requests, now or when it has room again."""
        return self.state in _USABLE

    @property
    def is_draining(self) -> bool:
        """It takes no new requests, and is not closed yet."""
        return self.state is State.DRAINING

    @property
    def is_closed(self) -> bool:
        """It has ended, by this side or by the peer."""
        return self.state in _CLOSED

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have no answer yet."""
        return len(self._streams)

    @property
    def limit(self) -> int:
        """How many requests may be in flight at a time."""
        return self._limit if self._limit < self._max_streams else self._max_streams

    @property
    def room(self) -> int | None:
        """How many more requests may be sent now; None where it takes no new requests any more."""
        if self.state not in _USABLE:
            return None
        # Without `min` and `max`: this is read a few times per slice.
        limit = self._limit if self._limit < self._max_streams else self._max_streams
        in_flight = len(self._streams)
        return limit - in_flight if limit > in_flight and self._writable and self._pinged is None else 0

    def send(self, requests: Sequence[R]) -> None:
        """Send requests, no more than there is room for; they are written in the next turn of the loop."""
        engine, streams = self._engine, self._streams
        stream_id = 0
        for index, request in enumerate(requests):
            try:
                body = request.body
                stream_id = engine.send_request(request.headers, end_stream=not body)
                if body:
                    engine.send_data(stream_id, body, end_stream=True)
            except NGH2Error:
                # The engine takes no more (GOAWAY, ids used up): nothing of these was sent.
                self._drain("the engine takes no more requests")
                self._owner.resend(list(requests[index:]))
                break
            streams[stream_id] = request
        if stream_id:
            self._held.newest_id = stream_id
        if stream_id > _LAST_STREAM_ID:
            self._drain("")
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def resume(self) -> None:
        """Write what waited for `may_send`."""
        self._flush()

    def check(
        self,
        now: float,
        *,
        request_timeout_s: float,
        ping_after_s: float,
        ping_timeout_s: float,
        without_streams_s: float,
    ) -> None:
        """Called about once a second: end requests past their deadline, and a connection that no longer answers or
        takes no requests. See `PoolOptions`."""
        if self.is_closed:
            return
        if not self._engine.want_read:
            self._ended_by_engine()
            return
        if not self._writable and not self._may_send():
            self._end(State.LOST, "the peer has not taken all that was written, and nothing may be sent any more")
            return
        self._allowed_bytes = min(self._allowed_bytes + _PER_SECOND_BYTES, _BURST_BYTES)
        late: list[R] = []
        for stream_id, request in list(self._streams.items()):
            if request.started > now - request_timeout_s:
                continue
            written = not self._engine.queued_body_size(stream_id)
            try:
                self._engine.reset_stream(stream_id, ErrorCode.CANCEL)
            except NGH2Error as error:
                self._owner.finished(late)
                self._end(State.LOST, f"protocol error: {error}")
                return
            del self._streams[stream_id]
            request.failure = Failure(FailureKind.TIMEOUT, f"no answer within {request_timeout_s:g} s", unknown=written)
            late.append(request)
        silent_s = now - self._heard
        if self._pinged is not None:
            if now - self._pinged > ping_timeout_s:
                self._end(State.LOST, f"a PING was not answered within {ping_timeout_s:g} s")
        elif silent_s > (_SUSPECT_AFTER_S if late else ping_after_s) and (not self._streams or self._may_send()):
            self._pinged = now
            self._engine.ping(b"\x00" * 8)
        if self._without_streams is not None and now - self._without_streams > without_streams_s:
            self._drain(f"no stream allowed for {without_streams_s:g} s")
        if not self._streams and self.is_draining:
            self.close()
        self._flush()
        if late:
            self._owner.finished(late)
            self._owner.changed(self)

    def drain(self, why: str = "") -> None:
        """Take no new requests; close when those in flight have ended (at once, from the loop, if there are none).
        `why` is for where the peer wishes it."""
        self._drain(why)
        if not self._streams:
            self._loop.call_soon(self.close)

    def close(self) -> None:
        """Send GOAWAY and close; what is in flight fails as lost, or is given back where it was not written."""
        if self.is_closed:
            return
        self._give_back_unwritten()
        try:
            self._engine.send_goaway(0)
        except NGH2Error:
            pass  # the engine has ended the connection already
        else:
            self._flush()
        self._end(State.CLOSED, "closed by tocsin")

    # -- within --------------------------------------------------------------------------------------------------------

    def _handle(self, events: list[Any]) -> None:
        """Every event of one read, in slices: the owner sends more after each slice, before the rest is looked at.

        Otherwise answers that came together would go on coming together, and nothing be sent in between. The engine's
        events are told apart by their type alone: this loop runs a few times per delivery, and calls nothing that it
        need not.
        """
        finished: list[R] = []
        closed: dict[int, tuple[R, StreamClosed]] = {}
        streams = self._streams
        for event in events:
            kind = type(event)
            if kind is ResponseReceived:
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
            elif kind is DataReceived:
                request = streams.get(event.stream_id)
                if request is None:
                    continue
                request.response_body += event.data
                request.connection_opened = self.opened_at
                if not event.end_stream:
                    if len(request.response_body) < _ANSWER_LIMIT_BYTES:
                        continue
                    # No answer is so long. It has a status, and is judged by that.
                    self._engine.reset_stream(event.stream_id, ErrorCode.CANCEL)
                del streams[event.stream_id]
                finished.append(request)
            elif kind is StreamClosed:
                request = streams.pop(event.stream_id, None)
                if request is not None:
                    closed[event.stream_id] = request, event
                continue
            elif kind is SettingsReceived:
                self._settings_changed(event.settings)
                continue
            elif kind is GoAwayReceived or kind is ConnectionClosed:
                if kind is GoAwayReceived:
                    self._owner.goaway()
                self._drain("GOAWAY", uncounted=len(finished))
                continue
            else:
                continue
            if len(finished) >= _SLICE:
                self.answered += len(finished)
                self._owner.finished(finished)
                finished = []
                self._owner.changed(self)
                self._flush()
        self.answered += len(finished)
        if closed:
            finished += self._were_closed(closed)
        if finished:
            self._owner.finished(finished)

    def _were_closed(self, closed: dict[int, tuple[R, StreamClosed]]) -> list[R]:
        """Streams that ended without a whole answer, by id: what may be sent again is given back, the rest is returned.

        In the order in which they were opened: where a GOAWAY closes many, the engine names them in any order, and what
        is given back would no longer wait in the order in which it came.
        """
        finished: list[R] = []
        resend: list[R] = []
        for id in sorted(closed):
            request, event = closed[id]
            if may_be_resent(request, event):
                resend.append(request)
            else:
                finished.append(request)
                self.answered += request.failure is None
        if resend:
            self._owner.resend(resend)
        return finished

    def _settings_changed(self, settings: Mapping[int, int]) -> None:
        # Absent means that it stays; never sent means no limit (RFC 9113, 6.5.2).
        opening = self.state is State.OPENING
        if opening or Setting.MAX_CONCURRENT_STREAMS in settings:
            self._limit = min(settings.get(Setting.MAX_CONCURRENT_STREAMS, 2**31), 2**31)
            self._without_streams = None if self._limit else self._loop.time()
        if opening:
            self.state = State.ACTIVE

    def _drain(self, why: str, *, uncounted: int = 0) -> None:
        """Take no new requests. `why` is empty where this side wishes it; `uncounted` are answers that have come and
        are not counted yet."""
        if not self.is_usable:
            return
        self.state = State.DRAINING
        answered = self.answered + uncounted
        at_once = self._loop.time() - self.opened_at < _A_MOMENT_S
        if why and (answered == 0 or (at_once and answered < _FEW_ANSWERS)):
            self._owner.useless(self, why)

    def _flush(self) -> None:
        """Hand to the socket what the engine has, a part at a time, as long as the socket takes all of it.

        Guaranteed: while `may_send` says no, no byte of a request is handed to the socket. The pool asks before it
        sends, but the engine may hold a request, or a part of its body, for longer: until the next turn of the loop,
        until the socket takes more, until a stream ends (the peer has lowered its limit), until the peer opens its
        flow-control window. So it is asked again here, and also which of such requests are no longer wanted. The
        engine writes all that it can, so a connection with requests in flight writes nothing while it may not send, not
        even an acknowledgement, until the next `resume`, `check` or read.
        """
        self._flush_scheduled = False
        transport = self._transport
        if transport is None or not self._writable:
            return
        held = self._held
        if (self._streams or held.at_risk) and not self._may_send():
            held.add_new()  # they wait, and may be withdrawn until this is asked again
            return
        if held.some and not self._held_is_wanted():
            return
        try:
            data = self._engine.data_to_send(_WRITE_BYTES)
            while data:
                transport.write(data)
                if len(data) < _WRITE_BYTES or not self._writable or not self._may_send():
                    break
                data = self._engine.data_to_send(_WRITE_BYTES)
        except NGH2Error as error:
            self._end(State.LOST, f"protocol error: {error}")
            return
        stopped = len(data) == _WRITE_BYTES or not self._writable
        if stopped or held.some or self._engine.queued_body_size():
            held.note(stopped=stopped)
        else:
            held.nothing()
        if self.state not in _USABLE and self._streams:
            # Requests that a GOAWAY overtook, unwritten: the engine turns them back when it is asked for what to write.
            self._handle(self._engine.events())
            if not self._streams:
                self._loop.call_soon(self.close)

    def _held_is_wanted(self) -> bool:
        """Take back what is held and no longer wanted; returns whether the connection may go on."""
        if self._held.at_risk and self._owner.revoked(self._held.at_risk):
            self._end(State.LOST, "a request was revoked that may be written in part")
            return False
        self._held.add_new()
        waiting = self._held.waiting()
        unwanted = set(self._owner.withdrawn(list(waiting.values()))) if waiting else ()
        if unwanted:
            for stream_id, request in waiting.items():
                if request in unwanted:
                    self._take_back(stream_id)
                    request.failure = Failure(FailureKind.WITHDRAWN, "no longer wanted", unknown=False)
            self._owner.finished([request for request in waiting.values() if request in unwanted])
        return not self.is_closed

    def _unwritten(self) -> list[int]:
        """The streams whose requests the engine has not wholly written, and the peer has not begun to answer."""
        bytes_left = self._engine.queued_body_size
        if not bytes_left():
            return []
        return [id for id, request in self._streams.items() if not request.status and bytes_left(id)]

    def _take_back(self, stream_id: int) -> None:
        """A request that was not wholly written, without its stream."""
        with suppress(NGH2Error):
            self._engine.reset_stream(stream_id, ErrorCode.CANCEL)
        del self._streams[stream_id]

    def _give_back_unwritten(self) -> None:
        """None of these was processed: they may be sent again."""
        unwritten = self._unwritten()
        requests = [self._streams[id] for id in unwritten]
        for id in unwritten:
            self._take_back(id)
        if requests:
            self._owner.resend(requests)

    def _ended_by_engine(self) -> None:
        """It reads nothing any more: there was a GOAWAY and no request is open, or the peer has broken a rule."""
        if self._streams:
            self._end(State.LOST, "protocol error")
        else:
            self.close()

    def _end(self, state: State, why: str) -> None:
        if self.is_closed:
            return
        if state is State.LOST:
            self._drain(why)
        self.state = state
        self._give_back_unwritten()
        lost = list(self._streams.values())
        self._streams.clear()
        for request in lost:
            request.status = 0
            request.failure = Failure(FailureKind.LOST, f"connection lost: {why}", unknown=True)
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        if lost:
            self._owner.finished(lost)
        self._owner.ended(self)
