"""A lane by itself: what it lets out, in which order, and that it never stops for good."""

from __future__ import annotations

from typing import Any

from tests.support.line import APPLICATION, apns_device, make_event

from tocsin.delivery.breaker import LINK
from tocsin.delivery.fuse import Fuse
from tocsin.delivery.lane import Lane, LaneOptions
from tocsin.delivery.open_items import Delivery, OpenItem
from tocsin.domain.outcomes import Answer, Delivered, Withdrawn
from tocsin.domain.routes import LaneState, Route
from tocsin.providers.base import Content
from tocsin.store.records import Handle, Item

DELIVERED = Delivered(Answer(200, ""))
ROUTE = Route("apns", APPLICATION, f"apns:production:{APPLICATION}", "production")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_lane(clock: Clock, **options: int) -> Lane:
    sizes: dict[str, Any] = {"in_flight": 100, "waiting": 1000, "first_in_flight": 100} | options
    return Lane(ROUTE, LaneOptions(**sizes), Fuse(clock), clock, lambda: 0.5)


def delivery(message: str = "fax_new") -> Delivery:
    device = apns_device()
    event = make_event(device.owner, message=message)
    item = OpenItem(Item(event, Handle()), Content(event))
    return Delivery(item.content, device, ROUTE, item=item, tries=0)


def test_urgent_events_come_first_and_a_quarter_of_the_room_is_the_others() -> None:
    lane = make_lane(Clock(), in_flight=8)
    lane.offer([delivery() for _ in range(10)] + [delivery("dialplan_callreverse_start") for _ in range(100)])
    messages = [taken.content.event.message for taken in lane.take()]
    assert messages[0] == "dialplan_callreverse_start"
    assert messages.count("fax_new") == 2


def test_a_room_of_one_is_the_others_every_fourth_time_so_that_urgent_events_never_starve_them() -> None:
    lane = make_lane(Clock(), in_flight=1)
    lane.offer([delivery() for _ in range(3)])
    taken: list[str] = []
    for _ in range(12):
        lane.offer([delivery("dialplan_callreverse_start") for _ in range(2)])
        taken += [one.content.event.message for one in lane.take()]
        lane.ended(1, healthy=1)
    assert taken.count("fax_new") == 3


def test_an_urgent_event_takes_the_place_of_another_in_a_lane_that_is_full() -> None:
    """It was parked, and came back only when the flood was over."""
    lane = make_lane(Clock(), in_flight=1, waiting=20)
    others = [delivery() for _ in range(30)]
    assert lane.offer(others) == others[20:]
    urgent = [delivery("dialplan_callreverse_start") for _ in range(3)]
    assert lane.offer([delivery(), *urgent])[-3:] == others[19:16:-1], "the newest of the others are parked"
    assert lane.waiting == 20
    assert lane.take() == urgent[:1]


def test_the_others_keep_a_quarter_of_a_lane_that_urgent_events_fill() -> None:
    lane = make_lane(Clock(), in_flight=1, waiting=20)
    lane.offer([delivery("dialplan_callreverse_start") for _ in range(30)])
    others = [delivery() for _ in range(10)]
    parked = lane.offer(others)
    assert [one for one in parked if one in others] == others[5:]
    assert len(parked) == 10
    more = [delivery("dialplan_callreverse_start") for _ in range(9)]
    assert lane.offer(more) == more


def test_urgent_ones_that_are_parked_may_be_claimed_for_a_lane_that_others_fill() -> None:
    lane = make_lane(Clock(), in_flight=1, waiting=80)
    lane.offer([delivery() for _ in range(80)])
    assert (lane.room, lane.room_for_the_fewer) == (0, (True, 10)), "an eighth of the lane"
    lane.offer([delivery("dialplan_callreverse_start") for _ in range(15)])
    assert (lane.room, lane.room_for_the_fewer) == (0, (True, 5)), "a quarter of what waits"
    lane.offer([delivery("dialplan_callreverse_start") for _ in range(10)])
    assert (lane.room, lane.room_for_the_fewer) == (0, (True, 0)), "urgent ones have their share"


def test_others_that_are_parked_may_be_claimed_for_a_lane_that_urgent_ones_fill() -> None:
    """They came back only when the flood was over, while others that were new found their places."""
    lane = make_lane(Clock(), in_flight=1, waiting=80)
    lane.offer([delivery("dialplan_callreverse_start") for _ in range(80)])
    assert (lane.room, lane.room_for_the_fewer) == (0, (False, 10)), "an eighth of the lane"
    assert len(lane.offer([delivery() for _ in range(10)])) == 10, "urgent ones make way"
    assert (lane.room, lane.room_for_the_fewer) == (0, (False, 10))
    lane.offer([delivery() for _ in range(10)])
    assert (lane.room, lane.room_for_the_fewer) == (0, (False, 0)), "the others have their share"


def test_a_probe_that_is_not_sent_after_all_leaves_room_for_the_next_one() -> None:
    clock = Clock()
    lane = make_lane(clock)
    lane.offer([delivery() for _ in range(10)])
    sent = lane.take()
    lane.ended(len(sent), healthy=0, failures=[LINK] * 5)
    assert lane.status().state is LaneState.OPEN
    clock.now += 100
    for _ in range(3):
        lane.offer([delivery()])
        [probe] = lane.take()
        assert lane.take() == [], "one probe at a time"
        lane.not_sent(probe)
    lane.offer([delivery()])
    [probe] = lane.take()
    lane.ended(1, healthy=1)
    lane.answered(probe, DELIVERED)
    assert lane.status().state is LaneState.RUNNING


def test_a_probe_that_was_withdrawn_leaves_room_for_the_next_one() -> None:
    clock = Clock()
    lane = make_lane(clock)
    lane.offer([delivery()])
    lane.take()
    lane.ended(1, healthy=0, failures=[LINK] * 5)
    clock.now += 100
    lane.offer([delivery()])
    [probe] = lane.take()
    lane.ended(1, healthy=0)
    lane.answered(probe, Withdrawn(Answer(0, "not sent")))
    assert lane.status().state is LaneState.OPEN
    lane.offer([delivery()])
    assert len(lane.take()) == 1


def test_a_lane_begins_with_a_small_window_that_every_answer_widens() -> None:
    lane = make_lane(Clock(), first_in_flight=10, in_flight=35)
    lane.offer([delivery() for _ in range(200)])
    assert len(lane.take()) == 10
    assert lane.take() == [], "nothing has come back yet"
    lane.ended(10, healthy=10)
    assert len(lane.take()) == 20
    lane.ended(20, healthy=20)
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
