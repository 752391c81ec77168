"""The decision that a pool takes for requests that wait, case by case."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tocsin.http2.choosing import SATURATED_FOR_S, Decision, Give, OpenOne, Wait, choose


@dataclass(frozen=True)
class Candidate:
    room: int | None


FULL = Candidate(0)
DRAINING = Candidate(None)
NOW = 1000.0


def decide(
    *connections: Candidate,
    pending: int = 10,
    most: int = 2,
    dialling: bool = False,
    saturated_since: float | None = None,
) -> Decision[Candidate]:
    return choose(connections, pending, most=most, dialling=dialling, saturated_since=saturated_since, now=NOW)


def test_the_first_connection_is_opened_at_once() -> None:
    assert decide() == OpenOne()


def test_only_one_connection_is_opened_at_a_time() -> None:
    assert decide(dialling=True) == Wait(None)


def test_the_first_connection_with_room_is_filled() -> None:
    assert decide(DRAINING, FULL, Candidate(3), Candidate(100)) == Give(Candidate(3), 3)


def test_no_more_is_given_than_waits() -> None:
    assert decide(Candidate(100), pending=7) == Give(Candidate(100), 7)


def test_saturation_begins_when_no_connection_has_room() -> None:
    assert decide(FULL) == Wait(NOW)


def test_a_short_saturation_is_waited_out() -> None:
    since = NOW - SATURATED_FOR_S * 0.9
    assert decide(FULL, saturated_since=since) == Wait(since)


def test_a_saturation_that_lasts_opens_one_more() -> None:
    assert decide(FULL, saturated_since=NOW - SATURATED_FOR_S * 1.1) == OpenOne()


def test_a_saturation_that_lasts_opens_no_more_than_allowed() -> None:
    since = NOW - 10
    assert decide(FULL, FULL, saturated_since=since) == Wait(since)
    assert decide(FULL, saturated_since=since, dialling=True) == Wait(since)


def test_a_connection_that_drains_is_replaced_at_once() -> None:
    assert decide(DRAINING) == OpenOne()


def test_connections_that_drain_count_against_twice_the_bound() -> None:
    assert decide(DRAINING, DRAINING, DRAINING) == OpenOne()
    assert decide(DRAINING, DRAINING, DRAINING, DRAINING) == Wait(None)


@given(
    rooms=st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=6),
    pending=st.integers(1, 10),
    most=st.integers(1, 3),
    dialling=st.booleans(),
    saturated_for=st.one_of(st.none(), st.floats(0, 1)),
)
def test_whatever_the_connections_are_the_decision_keeps_the_bounds(
    rooms: list[int | None], pending: int, most: int, dialling: bool, saturated_for: float | None
) -> None:
    since = None if saturated_for is None else NOW - saturated_for
    decision = decide(*map(Candidate, rooms), pending=pending, most=most, dialling=dialling, saturated_since=since)
    match decision:
        case Give(connection, count):
            assert connection.room is not None
            assert 1 <= count <= min(connection.room, pending)
        case OpenOne():
            assert not any(rooms)
            assert not dialling
            assert sum(room is not None for room in rooms) < most
            assert len(rooms) < 2 * most
        case Wait():
            assert not any(rooms)
