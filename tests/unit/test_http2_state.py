"""A connection's life, and what it writes in it, against a server's engine in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ngh2
import pytest
from ngh2 import Configuration, Role, Setting

from tocsin.http2.connection import Connection
from tocsin.http2.messages import FailureKind, Request
from tocsin.http2.state import State

HEAD = ((b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/"))


class Wire(asyncio.Transport):
    """What the connection writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None: ...


class Both:
    """A connection, its owner, and the server's engine at the other end."""

    def __init__(self, max_streams: int = 3, window_bytes: int = 65535) -> None:
        self.allowed = True
        self.done: list[Request] = []
        self.again: list[Request] = []
        self.ends = 0
        self.useless_because: list[str] = []
        self.goaways = 0
        self.on_finished: Callable[[], None] = lambda: None
        self.wire = Wire()
        self.connection: Connection[Request] = Connection(self, max_streams=100, may_send=lambda: self.allowed)
        self.server = ngh2.Connection(Role.SERVER, Configuration())
        self.server.initiate_connection(
            {Setting.MAX_CONCURRENT_STREAMS: max_streams, Setting.INITIAL_WINDOW_SIZE: window_bytes}
        )
        self.connection.connection_made(self.wire)

    def finished(self, requests: list[Request]) -> None:
        self.done += requests
        self.on_finished()

    def resend(self, requests: list[Request]) -> None:
        self.again += requests

    def changed(self, connection: Connection[Request]) -> None: ...

    def useless(self, connection: Connection[Request], why: str) -> None:
        self.useless_because.append(why)

    def goaway(self) -> None:
        self.goaways += 1

    def ended(self, connection: Connection[Request]) -> None:
        self.ends += 1

    def to_server(self) -> list[type]:
        """Deliver what was written; returns the types of the events."""
        data, self.wire.written = self.wire.written, b""
        self.server.receive_data(data)
        return [type(event) for event in self.server.events()]

    def to_client(self) -> None:
        self.connection.data_received(self.server.data_to_send())

    async def send(self, count: int = 1) -> list[Request]:
        requests = [Request(HEAD, b"body") for _ in range(count)]
        for request in requests:
            request.started = asyncio.get_running_loop().time()
        self.connection.send(requests)
        await asyncio.sleep(0)
        return requests

    def answer(self, stream_id: int) -> None:
        self.server.send_response(stream_id, [(b":status", b"200")], end_stream=True)
        self.to_client()

    def check(self, now: float, timeout_s: float = 30) -> None:
        self.connection.check(now, request_timeout_s=timeout_s, ping_after_s=60, ping_timeout_s=10, without_streams_s=5)


@pytest.fixture
async def both() -> Both:
    return Both()


@pytest.fixture
async def active() -> Both:
    made = Both()
    made.to_server()
    made.to_client()
    return made


async def test_one_stream_is_assumed_until_the_settings_come(both: Both) -> None:
    assert repr(both.connection) == "<Connection OPENING, 0 in flight, limit 1, 0 answered>"
    assert both.connection.room == 1
    both.to_server()
    both.to_client()
    assert repr(both.connection) == "<Connection ACTIVE, 0 in flight, limit 3, 0 answered>"
    assert both.connection.room == 3


async def test_the_repr_counts_what_is_in_flight_and_what_was_answered(active: Both) -> None:
    await active.send(2)
    active.to_server()
    active.answer(1)
    assert repr(active.connection) == "<Connection ACTIVE, 1 in flight, limit 3, 1 answered>"


async def test_our_own_limit_holds_where_the_peer_allows_more() -> None:
    both = Both(max_streams=5000)
    both.to_server()
    both.to_client()
    assert both.connection.room == 100


async def test_a_goaway_drains_and_the_last_answer_closes(active: Both) -> None:
    [request] = await active.send()
    active.to_server()
    active.server.send_goaway(0)
    active.to_client()
    assert active.connection.state is State.DRAINING
    assert (active.connection.is_usable, active.connection.room) == (False, None)
    active.answer(1)
    assert request.status == 200
    assert (active.connection.state, active.wire.closed, active.ends) == (State.CLOSED, True, 1)


async def test_requests_sent_while_a_read_is_handled_that_ends_the_connection_come_back(active: Both) -> None:
    """Answers and a GOAWAY in one read: the pool sends more after the answers, before it knows of the GOAWAY."""
    await active.send(3)
    active.to_server()
    more = [Request(HEAD, b"body") for _ in range(2)]
    active.on_finished = lambda: active.connection.send(more)
    for stream_id in (1, 3, 5):
        active.server.send_response(stream_id, [(b":status", b"200")], end_stream=True)
    active.server.send_goaway(0)
    active.to_client()
    await asyncio.sleep(0)
    assert active.again == more
    assert (active.connection.state, active.ends) == (State.CLOSED, 1)


async def test_draining_without_requests_closes_from_the_loop(active: Both) -> None:
    active.connection.drain()
    assert active.connection.is_draining
    await asyncio.sleep(0)
    assert active.connection.state is State.CLOSED
    assert active.to_server().count(ngh2.GoAwayReceived) == 1


async def test_settings_do_not_make_a_draining_connection_usable_again(both: Both) -> None:
    await both.send()
    both.connection.drain()
    both.to_server()
    both.to_client()
    assert both.connection.state is State.DRAINING


async def test_a_connection_that_the_peer_ends_is_lost(active: Both) -> None:
    [request] = await active.send()
    active.connection.connection_lost(None)
    assert (active.connection.state, active.ends) == (State.LOST, 1)
    assert request.failure is not None
    assert (request.failure.kind, request.failure.unknown) == (FailureKind.LOST, True)


async def test_a_connection_that_has_ended_stays_as_it_ended(active: Both) -> None:
    active.connection.close()
    active.connection.connection_lost(OSError("reset"))
    active.connection.drain()
    await asyncio.sleep(0)
    assert (active.connection.state, active.ends) == (State.CLOSED, 1)
    assert active.connection.is_closed


async def test_a_protocol_error_of_the_peer_ends_the_connection(active: Both) -> None:
    active.connection.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
    assert active.connection.is_closed
    assert active.wire.closed


async def test_a_connection_whose_ping_gets_no_answer_is_lost(active: Both) -> None:
    now = asyncio.get_running_loop().time()
    active.check(now + 61)
    assert ngh2.PingReceived in active.to_server()
    active.check(now + 72)
    assert active.connection.state is State.LOST


async def test_nothing_is_written_for_requests_while_sending_is_not_allowed(active: Both) -> None:
    active.to_server()
    active.allowed = False
    await active.send(2)
    active.check(asyncio.get_running_loop().time())
    assert active.wire.written == b""
    active.allowed = True
    active.connection.resume()
    assert active.to_server().count(ngh2.RequestReceived) == 2


async def test_without_requests_in_flight_acknowledgements_are_written_all_the_same(active: Both) -> None:
    active.to_server()
    active.allowed = False
    active.server.update_settings({Setting.MAX_CONCURRENT_STREAMS: 7})
    active.to_client()
    assert ngh2.SettingsAcknowledged in active.to_server()


async def test_a_request_that_ends_unwritten_at_its_deadline_is_never_written(active: Both) -> None:
    active.to_server()
    active.allowed = False
    await active.send(2)
    active.check(asyncio.get_running_loop().time() + 31)
    assert [request.failure and request.failure.kind for request in active.done] == [FailureKind.TIMEOUT] * 2
    assert ngh2.RequestReceived not in active.to_server()
    active.allowed = True
    active.connection.resume()
    assert ngh2.RequestReceived not in active.to_server()


async def test_a_connection_that_closes_while_sending_is_not_allowed_writes_no_request(active: Both) -> None:
    active.to_server()
    active.allowed = False
    await active.send(2)
    active.connection.close()
    assert active.wire.written == b""
    assert len(active.done) == 2


async def test_a_body_that_waits_for_the_peers_window_waits_for_permission_too() -> None:
    both = Both(window_bytes=0)
    both.to_server()
    both.to_client()
    await both.send()
    events = both.to_server()
    assert ngh2.RequestReceived in events
    assert ngh2.DataReceived not in events
    both.allowed = False
    both.server.update_settings({Setting.INITIAL_WINDOW_SIZE: 1000})
    both.to_client()
    assert both.wire.written == b""
    both.allowed = True
    both.connection.resume()
    assert ngh2.DataReceived in both.to_server()


async def test_a_request_above_a_lowered_limit_waits_for_permission_too(active: Both) -> None:
    active.server.update_settings({Setting.MAX_CONCURRENT_STREAMS: 1})
    lowered = active.server.data_to_send()
    active.connection._engine.receive_data(lowered)  # read, and its event not handled yet
    await active.send(2)
    assert active.to_server().count(ngh2.RequestReceived) == 1
    active.allowed = False
    active.answer(1)
    assert active.wire.written == b""
    active.allowed = True
    active.connection.resume()
    assert active.to_server().count(ngh2.RequestReceived) == 1


async def test_a_connection_on_which_a_request_times_out_is_asked_at_once_and_gets_no_more_until_it_answers(
    active: Both,
) -> None:
    now = asyncio.get_running_loop().time()
    await active.send()
    active.to_server()
    active.check(now + 31)
    assert ngh2.PingReceived in active.to_server()
    assert (active.connection.is_usable, active.connection.room) == (True, 0)
    active.to_client()  # the engine answers a PING by itself
    assert active.connection.room == 3


async def test_a_connection_that_was_heard_a_moment_ago_is_not_suspect_for_one_late_request(active: Both) -> None:
    requests = await active.send(2)
    active.to_server()
    now = asyncio.get_running_loop().time()
    requests[1].started = now - 31
    active.answer(1)
    active.check(now)
    assert [request.failure and request.failure.kind for request in active.done] == [None, FailureKind.TIMEOUT]
    assert ngh2.PingReceived not in active.to_server()
    assert active.connection.room == 3


async def test_a_draining_connection_closes_when_its_last_request_times_out(active: Both) -> None:
    await active.send()
    active.to_server()
    active.connection.drain()
    active.check(asyncio.get_running_loop().time() + 31)
    assert active.connection.state is State.CLOSED


async def test_a_connection_without_streams_drains_after_a_while_and_not_before(active: Both) -> None:
    now = asyncio.get_running_loop().time()
    active.server.update_settings({Setting.MAX_CONCURRENT_STREAMS: 0})
    active.to_client()
    active.check(now + 4)
    assert (active.connection.is_usable, active.connection.room) == (True, 0)
    active.server.update_settings({Setting.MAX_CONCURRENT_STREAMS: 2})
    active.to_client()
    active.check(now + 8)
    assert active.connection.room == 2
    active.server.update_settings({Setting.MAX_CONCURRENT_STREAMS: 0})
    active.to_client()
    active.check(now + 20)
    assert active.connection.state is State.CLOSED


async def test_what_ends_unwished_before_it_was_of_use_was_useless_and_nothing_else() -> None:
    async def fresh() -> Both:
        made = Both()
        made.to_server()
        made.to_client()
        await made.send()
        made.to_server()
        return made

    gone = await fresh()
    gone.server.send_goaway(0)
    gone.to_client()
    assert gone.useless_because == ["GOAWAY"]
    gone.connection.connection_lost(None)
    assert gone.useless_because == ["GOAWAY"], "once"
    assert gone.goaways == 1

    lost = await fresh()
    lost.connection.connection_lost(None)
    assert lost.useless_because == ["closed by the peer"]

    reset = await fresh()
    reset.server.reset_stream(1, ngh2.ErrorCode.INTERNAL_ERROR)
    reset.to_client()
    reset.connection.connection_lost(None)
    assert reset.useless_because == ["closed by the peer"]

    hardly = await fresh()
    hardly.server.send_response(1, [(b":status", b"200")], end_stream=True)
    hardly.server.send_goaway(1)
    hardly.to_client()
    assert hardly.useless_because == ["GOAWAY"], "it was opened a moment ago"

    answered = await fresh()
    answered.connection.opened_at -= 2
    answered.server.send_response(1, [(b":status", b"200")], end_stream=True)
    answered.server.send_goaway(1)
    answered.to_client()
    retired = await fresh()
    retired.connection.drain()
    retired.connection.connection_lost(None)
    closed = await fresh()
    closed.connection.close()
    assert (answered.useless_because, retired.useless_because, closed.useless_because) == ([], [], [])


async def test_what_a_goaway_sends_back_keeps_the_order_in_which_it_was_sent() -> None:
    """The engine closes the streams in an order of its own; the pool puts them back as they come."""
    both = Both(max_streams=100)
    both.to_server()
    both.to_client()
    requests = await both.send(60)
    both.to_server()
    both.server.send_goaway(0, last_stream_id=0)
    both.to_client()
    assert len(both.again) == 60
    assert [requests.index(request) for request in both.again] == list(range(60))
