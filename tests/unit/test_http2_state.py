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
        self.most: int | None = None
        """So much the socket takes; what is written beyond it is `unsent`, and writing is paused."""
        self.unsent = b""
        self.connection: Connection[Request] | None = None

    def write(self, data: Any) -> None:
        assert not self.unsent, "written while writing was paused"
        taken = len(data) if self.most is None else max(0, self.most - len(self.written))
        self.written += data[:taken]
        self.unsent = data[taken:]
        if self.unsent and self.connection is not None:
            self.connection.pause_writing()

    def take_on(self, most: int | None = None) -> None:
        """The socket takes more, where the connection agrees; as the transport does it."""
        assert self.connection is not None
        if not self.connection.may_go_on():
            self.closed = True
            self.connection.connection_lost(None)
            return
        self.most = most
        unsent, self.unsent = self.unsent, b""
        self.written += unsent
        self.connection.resume_writing()

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
        self.unwanted: list[Request] = []
        self.forbidden: list[Request] = []
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
        self.wire.connection = self.connection

    def finished(self, requests: list[Request]) -> None:
        self.done += requests
        self.on_finished()

    def resend(self, requests: list[Request]) -> None:
        self.again += requests

    def withdrawn(self, requests: list[Request]) -> list[Request]:
        return [request for request in requests if request in self.unwanted]

    def revoked(self, requests: list[Request]) -> bool:
        return any(request in self.forbidden for request in requests)

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

    async def send(self, count: int = 1, body: bytes = b"body") -> list[Request]:
        requests = [Request(HEAD, body) for _ in range(count)]
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


async def test_a_request_that_waits_for_permission_can_be_withdrawn(active: Both) -> None:
    active.to_server()
    active.allowed = False
    requests = await active.send(2)
    active.unwanted = requests[:1]
    active.allowed = True
    active.connection.resume()
    assert active.to_server().count(ngh2.RequestReceived) == 1
    assert active.done == requests[:1]


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
    assert not any(request.failure and request.failure.unknown for request in active.done)
    assert ngh2.RequestReceived not in active.to_server()
    active.allowed = True
    active.connection.resume()
    assert ngh2.RequestReceived not in active.to_server()


async def test_a_connection_that_closes_while_sending_is_not_allowed_writes_no_request(active: Both) -> None:
    active.to_server()
    active.allowed = False
    await active.send(2)
    active.connection.close()
    assert ngh2.RequestReceived not in active.to_server()
    assert (len(active.again), active.done) == (2, []), "none of them was written: each may be sent again"


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


# -- a peer that reads slowly ------------------------------------------------------------------------------------------

BODY = b"x" * 4000


async def slow(count: int = 20, taken: int = 20_000) -> tuple[Both, list[Request]]:
    """A connection whose socket has taken so many bytes of what was sent, and no more for now."""
    both = Both(max_streams=100, window_bytes=2**24)
    both.server.set_local_window_size(2**24)
    both.to_server()
    both.to_client()
    both.to_server()
    both.wire.most = taken
    return both, await both.send(count, BODY)


def whole(both: Both) -> int:
    """How many requests have come to the server as a whole."""
    data, both.wire.written = both.wire.written, b""
    both.server.receive_data(data)
    return sum(getattr(event, "end_stream", False) for event in both.server.events())


async def test_what_the_socket_does_not_take_stays_here_but_for_one_write() -> None:
    both, _ = await slow(count=100)
    assert len(both.wire.unsent) <= 32 * 1024
    assert both.connection.room == 0, "and nothing more is taken on"
    assert whole(both) < 5
    both.wire.take_on()
    assert whole(both) >= 95
    assert not both.connection._held.some


async def test_nothing_more_is_handed_to_the_socket_once_sending_is_not_allowed() -> None:
    both, requests = await slow()
    taken = whole(both)
    both.allowed = False
    both.wire.take_on()
    assert (both.wire.written, both.connection.state) == (b"", State.LOST)
    assert 0 < taken < 5
    lost = {request.failure.unknown for request in both.done if request.failure}
    assert lost == {True}, "what was written, in whole or in part, may have arrived"
    assert sorted(map(id, [*both.done, *both.again])) == sorted(map(id, requests))
    assert both.again == [request for request in requests if request in both.again], "in their order"
    assert len(both.again) > 10, "of which the body was not written"


async def test_a_connection_that_holds_unsent_bytes_ends_within_a_second_after_sending_was_forbidden() -> None:
    both, requests = await slow()
    both.check(asyncio.get_running_loop().time())
    assert both.connection.state is State.ACTIVE
    both.allowed = False
    both.check(asyncio.get_running_loop().time())
    assert (both.connection.state, both.wire.closed) == (State.LOST, True)
    assert len(both.done) + len(both.again) == len(requests)


async def test_a_request_that_waits_for_a_slow_reader_can_be_withdrawn() -> None:
    both, requests = await slow()
    both.unwanted = requests[15:]
    both.wire.take_on()
    assert whole(both) == 15
    assert {request.failure and request.failure.kind for request in both.done} == {FailureKind.WITHDRAWN}
    assert both.done == requests[15:]
    assert both.connection.state is State.ACTIVE, "the others are not disturbed"
    assert both.connection.in_flight == 15


async def test_a_request_that_was_written_in_part_takes_its_connection_with_it_when_it_is_revoked() -> None:
    both, requests = await slow()
    taken = whole(both)
    both.forbidden = both.connection._held.at_risk[-1:]
    assert both.forbidden
    both.wire.take_on()
    assert both.connection.state is State.LOST
    assert whole(both) == 0
    assert taken < len(requests)


async def test_a_revoked_request_that_the_socket_has_long_taken_disturbs_nobody() -> None:
    both, _ = await slow(count=3, taken=10**6)
    both.wire.most = len(both.wire.written) + 20_000
    early = list(both.connection._streams.values())
    await both.send(20, BODY)
    assert both.wire.unsent
    both.forbidden = early
    both.wire.take_on()
    assert (both.connection.state, whole(both)) == (State.ACTIVE, 23)


async def test_a_request_whose_body_waits_for_the_peers_window_can_be_withdrawn() -> None:
    both = Both(window_bytes=0)
    both.to_server()
    both.to_client()
    requests = await both.send(2)
    both.to_server()
    both.unwanted = requests[:1]
    both.server.update_settings({Setting.INITIAL_WINDOW_SIZE: 1000})
    both.to_client()
    assert whole(both) == 1
    assert both.done == requests[:1]


async def test_what_was_not_written_when_the_connection_is_lost_may_be_sent_again() -> None:
    both, requests = await slow()
    both.connection.connection_lost(None)
    assert len(both.again) > 10
    assert all(request.failure is None for request in both.again)
    assert all(request.failure is not None and request.failure.unknown for request in both.done)
    assert len(both.done) + len(both.again) == len(requests)


async def test_a_slow_reader_gets_everything_once_part_by_part() -> None:
    both, requests = await slow()
    got = whole(both)
    while both.wire.unsent:
        both.wire.take_on(10_000)
        got += whole(both)
    assert got == len(requests)
    for stream_id in range(1, 2 * len(requests), 2):
        both.server.send_response(stream_id, [(b":status", b"200")], end_stream=True)
    both.to_client()
    assert [request.status for request in both.done] == [200] * len(requests)


async def test_a_request_whose_last_frame_was_cut_is_at_risk_until_its_rest_is_with_the_socket() -> None:
    """Of 4000 bytes each, 32 KiB end within a body; its rest is in the next write."""
    both, _ = await slow(count=40, taken=1000)
    cut = both.connection._held.at_risk
    both.wire.take_on(0)
    assert set(map(id, cut)) < set(map(id, both.connection._held.at_risk))
    both.forbidden = cut[-1:]
    both.wire.take_on()
    assert both.connection.state is State.LOST
