"""What lanes may hold in memory: each as much as it leaves free for the others."""

from __future__ import annotations

from tests.unit.test_lanes import Clock, delivery, make_lane

from tocsin.delivery.memory import Memory, Share


def test_a_share_leaves_as_much_free_as_it_holds() -> None:
    memory = Memory(1000)
    one, two = Share(memory), Share(memory)
    assert one.room_bytes == 500
    assert one.take_first([100] * 10) == 5
    assert (one.held_bytes, one.room_bytes, memory.free_bytes) == (500, 0, 500)
    assert two.take_first([100] * 10) == 3, "up to its half of the rest, and the one that goes beyond it"
    assert two.room_bytes == 0
    one.give_back(300)
    assert one.room_bytes == 150


def test_whoever_holds_nothing_may_take_one_delivery_of_any_size() -> None:
    memory = Memory(1000)
    Share(memory).take(1000)
    other = Share(memory)
    assert other.take_first([5000, 1]) == 1
    assert other.take_first([1]) == 0


def test_a_lane_turns_away_what_its_memory_has_no_room_for_and_is_full_then() -> None:
    lane = make_lane(Clock(), in_flight=2)
    lane.share = Share(Memory(100_000))
    rejected = lane.offer([delivery() for _ in range(100)])
    assert 0 < lane.waiting < 100
    assert len(rejected) == 100 - lane.waiting
    assert (lane.full, lane.busy, lane.room) == (True, True, 0)
    lane.empty()
    assert (lane.share.held_bytes, lane.full, lane.busy) == (0, False, False)


def test_a_lane_that_never_answers_is_slow_although_nothing_waits_in_it() -> None:
    """Else a lane whose memory is all on the wire would make the others wait for it."""
    clock = Clock()
    lane = make_lane(clock)
    lane.offer([delivery() for _ in range(10)])
    assert len(lane.take()) == 10
    clock.now += 0.5
    lane.ended(1, healthy=1, failures=0, dead=0)
    clock.now += 0.9
    assert not lane.slow
    clock.now += 0.2
    assert lane.slow
    lane.ended(9, healthy=9, failures=0, dead=0)
    assert not lane.slow


def test_a_lane_asks_for_what_fits_beside_what_is_new() -> None:
    lane = make_lane(Clock(), in_flight=1, waiting=1000)
    assert lane.room == 250
    lane.offer([delivery() for _ in range(500)])
    assert (lane.busy, lane.room) == (False, 250)
    lane.offer([delivery()])
    assert (lane.busy, lane.room) == (True, 0)
