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


def test_a_lane_that_does_not_answer_all_is_slow_although_nothing_waits_in_it() -> None:
    """Else a lane whose memory is all on the wire would make the others wait for it. An answer now and then is no
    sign that it is quick."""
    clock = Clock()
    lane = make_lane(clock)
    lane.offer([delivery() for _ in range(10)])
    assert len(lane.take()) == 10
    clock.now += 0.9
    lane.ended(1, healthy=1)
    assert not lane.slow
    clock.now += 0.2
    assert lane.slow
    lane.ended(1, healthy=1)
    assert lane.slow
    lane.ended(8, healthy=8)
    assert not lane.slow


def test_a_lane_that_answers_within_a_moment_is_never_slow_however_busy_it_is() -> None:
    clock = Clock()
    lane = make_lane(clock, in_flight=10, first_in_flight=10)
    for _ in range(100):
        lane.offer([delivery() for _ in range(5)])
        lane.take()
        clock.now += 0.1
        lane.ended(5, healthy=5)
        lane.offer([delivery()])
        lane.take()
        assert not lane.slow
        lane.ended(1, healthy=1)


def test_a_lane_asks_for_what_fits_beside_what_is_new() -> None:
    lane = make_lane(Clock(), in_flight=1, waiting=1000)
    assert lane.room == 250
    lane.offer([delivery() for _ in range(500)])
    assert (lane.busy, lane.room) == (False, 250)
    lane.offer([delivery()])
    assert (lane.busy, lane.room) == (True, 0)
