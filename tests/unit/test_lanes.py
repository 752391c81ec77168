"""A lane by itself: what it lets out, in which order, and that it never stops for good."""

from __future__ import annotations

from typing import Any

from tests.support.line import APPLICATION, apns_device, make_event

from tocsin.delivery.fuse import Fuse
from tocsin.delivery.lanes import Lane, LaneOptions
from tocsin.domain.lanes import LaneState, Route
from tocsin.providers.base import Push, Rendering


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_lane(clock: Clock, **options: int) -> Lane:
    sizes: dict[str, Any] = {"in_flight": 100, "waiting": 1000, "first_in_flight": 100} | options
    return Lane("apns:production:app", LaneOptions(**sizes), Fuse(clock), clock, lambda: 0.5)


def push(message: str = "fax_new") -> Push:
    device = apns_device()
    event = make_event(device.owner, message=message)
    return Push(Rendering(event), device, Route(f"apns:production:{APPLICATION}"), None, 0)


def test_urgent_events_come_first_and_a_quarter_of_the_room_is_the_others() -> None:
    lane = make_lane(Clock(), in_flight=8)
    lane.offer([push() for _ in range(10)] + [push("dialplan_callreverse_start") for _ in range(100)])
    messages = [taken.rendering.event.message for taken in lane.take()]
    assert messages[0] == "dialplan_callreverse_start"
    assert messages.count("fax_new") == 2


def test_a_room_of_one_is_the_others_every_fourth_time_so_that_urgent_events_never_starve_them() -> None:
    lane = make_lane(Clock(), in_flight=1)
    lane.offer([push() for _ in range(3)])
    taken: list[str] = []
    for _ in range(12):
        lane.offer([push("dialplan_callreverse_start") for _ in range(2)])
        taken += [one.rendering.event.message for one in lane.take()]
        lane.ended(1, healthy=1, faults=0, dead=0)
    assert taken.count("fax_new") == 3


def test_a_probe_that_is_not_sent_after_all_leaves_room_for_the_next_one() -> None:
    clock = Clock()
    lane = make_lane(clock)
    lane.offer([push() for _ in range(10)])
    sent = lane.take()
    lane.ended(len(sent), healthy=0, faults=5, dead=0)
    assert lane.status().state is LaneState.OPEN
    clock.now += 100
    for _ in range(3):
        lane.offer([push()])
        assert len(lane.take()) == 1
        assert lane.take() == [], "one probe at a time"
        lane.unsent()
    lane.offer([push()])
    assert len(lane.take()) == 1
    lane.ended(1, healthy=1, faults=0, dead=0)
    assert lane.status().state is LaneState.RUNNING


def test_a_probe_that_was_withdrawn_leaves_room_for_the_next_one() -> None:
    clock = Clock()
    lane = make_lane(clock)
    lane.offer([push()])
    lane.take()
    lane.ended(1, healthy=0, faults=5, dead=0)
    clock.now += 100
    lane.offer([push()])
    assert len(lane.take()) == 1
    lane.ended(1, healthy=0, faults=0, dead=0)
    assert lane.status().state is LaneState.OPEN
    lane.offer([push()])
    assert len(lane.take()) == 1


def test_a_lane_sends_a_few_into_the_dark_and_more_with_every_answer() -> None:
    lane = make_lane(Clock(), first_in_flight=10, in_flight=35)
    lane.offer([push() for _ in range(200)])
    assert len(lane.take()) == 10
    assert lane.take() == [], "nothing has come back yet"
    lane.ended(10, healthy=10, faults=0, dead=0)
    assert len(lane.take()) == 20
    lane.ended(20, healthy=20, faults=0, dead=0)
    assert len(lane.take()) == 35


def test_a_fuse_that_held_nothing_back_is_whole_again_after_a_minute() -> None:
    clock = Clock()
    fuse = Fuse(clock)
    assert fuse.count(200, 60)
    assert not fuse.may_be_reset()
    clock.now += 61
    assert fuse.may_be_reset()


def test_a_fuse_whose_tokens_are_in_quarantine_since_before_a_restart_is_blown() -> None:
    fuse = Fuse(Clock())
    fuse.hold()
    assert fuse.blown
    assert fuse.may_be_reset(), "as soon as nothing is in quarantine any more"
