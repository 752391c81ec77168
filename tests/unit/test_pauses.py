"""Pauses of a lane, of a topic and of a device: what begins, renews and ends each, and who waits for it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.line import APPLICATION, apns_device, make_event

from tocsin.delivery.fuse import Fuse
from tocsin.delivery.lane import Lane, LaneOptions
from tocsin.delivery.open_items import Delivery, OpenItem
from tocsin.domain.devices import Device
from tocsin.domain.outcomes import (
    Answer,
    Backoff,
    Delivered,
    Misconfigured,
    Outcome,
    Refused,
    RetryLater,
    Scope,
    TokenDead,
    Withdrawn,
)
from tocsin.domain.routes import LaneState, Route
from tocsin.providers.base import Content
from tocsin.store.records import Handle, Item

LANE = f"apns:production:{APPLICATION}"
DELIVERED = Delivered(Answer(200, ""))
FAILED = RetryLater(Answer(503, "ServiceUnavailable"), Backoff(2.0, 300.0), failure=True)
WRONG_KEY = Misconfigured(Answer(403, "InvalidProviderToken"))
WRONG_TOPIC = Misconfigured(Answer(400, "TopicDisallowed"), Scope.TOPIC)
NOT_FOR_TOPIC = Misconfigured(Answer(400, "DeviceTokenNotForTopic"), Scope.DEVICE)
QUOTA = RetryLater(Answer(429, "QUOTA_EXCEEDED"), Backoff(60.0, 900.0, jitter=False), scope=Scope.LANE)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A lane and its clock, and what `Outcomes` and `Sending` do with it."""

    def __init__(self, **options: int) -> None:
        sizes: dict[str, Any] = {"in_flight": 600, "waiting": 1000, "first_in_flight": 600} | options
        self.clock = Clock()
        self.lane = Lane(_route(""), LaneOptions(**sizes), Fuse(self.clock), self.clock, lambda: 0.5)

    def offer(self, *deliveries: Delivery) -> list[float]:
        """Returns for how long each of those that the lane has not taken is parked."""
        return [self.lane.wait_s(parked) for parked in self.lane.offer(deliveries)]

    def sent(self, *deliveries: Delivery) -> list[Delivery]:
        """Offer these; returns what is on the wire now."""
        assert self.offer(*deliveries) == []
        self.clock.now += 0.001
        return self.lane.take()

    def answer(self, outcome: Outcome, *deliveries: Delivery) -> list[Delivery]:
        """All of these were answered so; returns what the lane gives back to be parked."""
        self.clock.now += 0.001
        lane = self.lane
        failed = isinstance(outcome, RetryLater) and outcome.failure
        counted = [one.device.token for one in deliveries if lane.counts(one)] if failed else []
        healthy = 0 if failed or isinstance(outcome, Withdrawn) else len(deliveries)
        lane.ended(len(deliveries), healthy=healthy, failures=counted)
        for delivery in deliveries:
            if isinstance(outcome, Delivered):
                lane.evidence.reach(delivery.route.topic, 0)
            lane.answered(delivery, outcome)
            lane.share.give_back(delivery.size_bytes)
        return list(lane.to_park())

    @property
    def state(self) -> LaneState:
        return self.lane.status().state

    @property
    def paused_s(self) -> float:
        return round(self.lane.pauses.until - self.clock.now, 3)

    def to_the_next_probe(self) -> None:
        self.clock.now = max(self.clock.now, self.lane.pauses.until) + 0.001


def _route(topic: str) -> Route:
    return Route("apns", APPLICATION, LANE, "production", topic)


def push(topic: str = "", device: Device | None = None) -> Delivery:
    device = device or apns_device()
    event = make_event(device.owner)
    item = OpenItem(Item(event, Handle()), Content(event))
    return Delivery(item.content, device, _route(topic), item=item, tries=0)


def owner(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


# -- the breaker -------------------------------------------------------------------------------------------------------


def opened(line: Line, *, others: int = 0) -> list[Delivery]:
    """Five failures have opened the breaker; returns what is still on the wire."""
    on_the_wire = line.sent(*[push() for _ in range(5 + others)])
    line.answer(FAILED, *on_the_wire[:5])
    assert line.state is LaneState.OPEN
    return on_the_wire[5:]


def test_the_breakers_pauses_double_up_to_a_minute_while_its_probes_fail() -> None:
    line = Line()
    opened(line)
    pauses = [line.paused_s]
    for _ in range(9):
        line.to_the_next_probe()
        [probe] = line.sent(push())
        line.answer(FAILED, probe)
        pauses.append(line.paused_s)
    assert pauses == pytest.approx([0.75 * bound for bound in (1, 2, 4, 8, 16, 32, 60, 60, 60, 60)], abs=0.01)


def test_five_failures_in_a_row_open_the_breaker_and_four_do_not() -> None:
    line = Line()
    line.answer(FAILED, *line.sent(*[push() for _ in range(4)]))
    assert line.state is LaneState.RUNNING
    line.answer(FAILED, *line.sent(push()))
    assert line.state is LaneState.OPEN


def test_failures_of_requests_that_were_sent_before_the_breaker_opened_do_not_make_its_pause_longer() -> None:
    line = Line()
    hanging = opened(line, others=10)
    first_s = line.paused_s
    line.to_the_next_probe()
    [probe] = line.sent(push())
    line.answer(FAILED, *hanging[:5])
    assert line.lane.may_send, "the probe is out, and nothing else decides"
    line.answer(DELIVERED, probe)
    assert line.state is LaneState.RUNNING
    line.answer(FAILED, *hanging[5:])
    assert line.state is LaneState.RUNNING, "nor do they open it again"
    assert first_s < 1


def test_answers_to_requests_that_were_sent_before_the_breaker_opened_do_not_close_it() -> None:
    line = Line()
    late = opened(line, others=3)
    line.answer(DELIVERED, *late)
    assert line.state is LaneState.OPEN


def test_what_comes_while_the_probe_is_out_waits_in_the_lane_and_goes_when_it_is_answered() -> None:
    line = Line()
    opened(line)
    line.to_the_next_probe()
    [probe] = line.sent(push())
    assert line.offer(*[push() for _ in range(20)]) == [], "none of them is parked"
    assert line.lane.take() == [], "one probe at a time"
    assert line.lane.room == 0, "and nothing parked is claimed meanwhile"
    assert line.answer(DELIVERED, probe) == []
    assert line.lane.has_resumed()
    assert len(line.lane.take()) == 20


def test_what_waits_for_a_probe_that_fails_is_parked_until_the_next_one() -> None:
    line = Line()
    opened(line)
    line.to_the_next_probe()
    [probe] = line.sent(push())
    line.offer(*[push() for _ in range(20)])
    parked = line.answer(FAILED, probe)
    assert len(parked) == 20
    assert {round(line.lane.wait_s(one), 3) for one in parked} == {line.paused_s}


def test_a_probe_goes_out_even_when_all_that_was_sent_before_it_hangs() -> None:
    line = Line(in_flight=20, first_in_flight=20)
    opened(line, others=15)
    line.answer(FAILED)
    assert line.lane.in_flight == 15
    line.offer()
    line.to_the_next_probe()
    assert len(line.sent(push(), push())) == 1


def test_a_probe_goes_out_even_when_what_hangs_fills_the_lanes_memory() -> None:
    line = Line()
    opened(line)
    line.to_the_next_probe()
    line.lane.share.take(10**9)
    assert len(line.sent(push())) == 1
    assert line.lane.room == 0, "one, and no second one"
    assert line.offer(push()) == [0.0]


def test_an_open_breaker_for_which_nothing_waits_closes() -> None:
    line = Line()
    opened(line)
    line.to_the_next_probe()
    line.lane.look_after(None)
    line.clock.now += 20
    line.lane.look_after(0)
    assert line.state is LaneState.OPEN, "something waits for its probe"
    line.clock.now += 20
    line.lane.look_after(None)
    assert line.state is LaneState.RUNNING


# -- misconfigured -----------------------------------------------------------------------------------------------------


def test_a_misconfigured_lane_is_probed_after_a_minute_doubling_to_fifteen() -> None:
    line = Line()
    line.answer(WRONG_KEY, *line.sent(*[push() for _ in range(100)]))
    pauses = [line.paused_s]
    for _ in range(6):
        line.to_the_next_probe()
        [probe] = line.sent(push(), push(), push())
        line.answer(WRONG_KEY, probe)
        pauses.append(line.paused_s)
    assert pauses == pytest.approx([60, 120, 240, 480, 900, 900, 900], abs=0.01)


def test_a_misconfigured_lane_whose_probes_fail_obeys_its_breaker() -> None:
    line = Line()
    line.answer(WRONG_KEY, *line.sent(push()))
    line.clock.now += 61
    began, probes = line.clock.now, 0
    while line.clock.now < began + 60:
        line.offer(push())
        line.clock.now += 0.001
        if probe := line.lane.take():
            probes += 1
            line.answer(FAILED, *probe)
        line.clock.now += 0.1
    assert 5 <= probes <= 15
    assert line.lane.status().reason == "InvalidProviderToken", "what the operator can mend is named"


@pytest.mark.parametrize("outcome", [DELIVERED, TokenDead(Answer(410, "Unregistered")), WRONG_TOPIC, NOT_FOR_TOPIC])
def test_a_probe_whose_answer_is_about_token_or_topic_says_that_the_credential_is_right(outcome: Outcome) -> None:
    line = Line()
    line.answer(WRONG_KEY, *line.sent(push()))
    line.to_the_next_probe()
    line.answer(outcome, *line.sent(push("a.topic")))
    assert line.state is LaneState.RUNNING


def test_a_probe_whose_answer_says_nothing_of_the_credential_is_followed_by_another_after_a_second() -> None:
    line = Line()
    line.answer(WRONG_KEY, *line.sent(push()))
    line.to_the_next_probe()
    line.answer(RetryLater(Answer(503, "Shutdown"), Backoff(0.0, 300.0)), *line.sent(push()))
    assert line.state is LaneState.PAUSED
    assert line.paused_s == pytest.approx(1.0)


def test_answers_to_requests_that_were_sent_before_the_lane_was_resumed_do_not_pause_it_again() -> None:
    line = Line()
    first, *late = line.sent(*[push() for _ in range(10)])
    line.answer(WRONG_KEY, first)
    line.lane.resume()
    line.answer(WRONG_KEY, *late)
    assert line.state is LaneState.RUNNING


# -- rates -------------------------------------------------------------------------------------------------------------


def test_a_rate_that_is_exceeded_again_and_again_pauses_the_lane_for_longer_each_time() -> None:
    line = Line()
    line.answer(QUOTA, *line.sent(*[push() for _ in range(50)]))
    pauses = [line.paused_s]
    for _ in range(5):
        line.to_the_next_probe()
        line.answer(QUOTA, *line.sent(push()))
        pauses.append(line.paused_s)
    assert pauses == pytest.approx([60, 120, 240, 480, 900, 900], abs=0.01)


def test_a_retry_after_makes_the_pause_longer_and_never_shorter() -> None:
    for after_s, paused_s in ((None, 60), (9.0, 60), (300.0, 300)):
        line = Line()
        line.answer(RetryLater(QUOTA.answer, QUOTA.backoff, after_s, scope=Scope.LANE), *line.sent(push()))
        assert line.paused_s == pytest.approx(paused_s)


def test_after_a_pause_for_a_rate_sending_begins_low_and_grows_for_a_minute() -> None:
    line = Line()
    line.answer(QUOTA, *line.sent(push()))
    line.to_the_next_probe()
    line.answer(DELIVERED, *line.sent(push()))
    sent: list[int] = []
    for _ in range(70):
        count = 0
        for _ in range(10):
            line.offer(*[push() for _ in range(100)])
            if taken := line.lane.take():
                count += len(taken)
                line.answer(DELIVERED, *taken)
            line.clock.now += 0.1 - 0.001 * bool(taken)
        sent.append(count)
    assert sent[0] <= 20
    assert sent[30] in range(250, 350)
    assert sent[:55] == sorted(sent[:55])
    assert sent[65] >= 900, "a minute later as much as comes"


def test_a_rate_that_is_exceeded_during_the_ramp_pauses_for_longer_than_before() -> None:
    line = Line()
    line.answer(QUOTA, *line.sent(push()))
    line.to_the_next_probe()
    line.answer(DELIVERED, *line.sent(push()))
    line.answer(QUOTA, *line.sent(push()))
    assert line.paused_s == pytest.approx(120)


# -- one topic, one device ---------------------------------------------------------------------------------------------


def test_a_device_that_is_not_for_its_topic_waits_alone_for_longer_each_time() -> None:
    line, wrong = Line(), apns_device()
    line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", wrong)))
    waits = []
    for _ in range(6):
        [wait_s] = line.offer(push("voip", wrong))
        waits.append(wait_s)
        assert len(line.sent(*[push("voip") for _ in range(5)])) == 5, "nobody else waits, reached before or not"
        line.clock.now += wait_s + 0.001
        [probe] = line.sent(push("voip", wrong), push("voip", wrong))
        line.answer(NOT_FOR_TOPIC, probe)
    assert waits == pytest.approx([60, 120, 240, 480, 900, 900], abs=0.01)
    assert line.lane.status().misconfigured_devices == 1
    assert line.lane.status().misconfigured_topics == {}


def test_a_device_is_sent_to_again_when_its_probe_was_delivered() -> None:
    line, device = Line(), apns_device()
    line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", device)))
    line.clock.now += 61
    [probe] = line.sent(*[push("voip", device) for _ in range(4)])
    assert line.answer(DELIVERED, probe) == []
    assert len(line.lane.take()) == 3, "what waited for the probe goes at once"
    assert line.lane.status().misconfigured_devices == 0


def test_twenty_owners_within_a_minute_blame_the_topic_if_it_has_reached_nobody() -> None:
    line = Line()
    for number in range(19):
        line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", apns_device(owner=owner(number)))))
    # More devices of the same owners prove nothing.
    for number in range(19):
        line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", apns_device(owner=owner(number)))))
    assert line.lane.status().misconfigured_topics == {}
    line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", apns_device(owner=owner(19)))))
    assert line.lane.status().misconfigured_topics == {"voip": "DeviceTokenNotForTopic"}
    assert line.offer(push("voip")) == pytest.approx([60], abs=0.01)
    assert line.offer(push("other")) == []


def test_a_topic_that_has_reached_a_device_is_never_blamed_until_its_credential_is_changed() -> None:
    line = Line()
    line.answer(DELIVERED, *line.sent(push("voip")))
    for number in range(50):
        line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", apns_device(owner=owner(number)))))
    assert line.lane.status().misconfigured_topics == {}
    line.lane.resume()
    for number in range(20):
        line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", apns_device(owner=owner(number)))))
    assert "voip" in line.lane.status().misconfigured_topics


def test_what_twenty_owners_said_over_a_longer_time_blames_no_topic() -> None:
    line = Line()
    for number in range(60):
        line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", apns_device(owner=owner(number)))))
        line.clock.now += 4
    assert line.lane.status().misconfigured_topics == {}


def test_a_blamed_topic_is_probed_by_other_devices_those_reached_before_first() -> None:
    line = Line()
    for number in range(20):
        line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", apns_device(owner=owner(number)))))
    line.clock.now += 61
    reached = replace(apns_device(), last_success_ms=1)
    [probe] = line.sent(push("voip"), push("voip", reached), push("voip"))
    assert probe.device is reached
    line.answer(NOT_FOR_TOPIC, probe)
    assert line.offer(push("voip")) == pytest.approx([120], abs=0.01)
    line.clock.now += 121
    [probe] = line.sent(push("voip", reached), push("voip"))
    assert probe.device is not reached
    line.answer(DELIVERED, probe)
    assert line.lane.status().misconfigured_topics == {}


def test_a_topic_that_apple_does_not_allow_is_paused_for_longer_each_time() -> None:
    line = Line()
    line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    waits = []
    for _ in range(6):
        [wait_s] = line.offer(push("voip"))
        waits.append(wait_s)
        line.clock.now += wait_s + 0.001
        line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    assert waits == pytest.approx([60, 120, 240, 480, 900, 900], abs=0.01)


def test_deliveries_of_a_topic_whose_probe_is_out_wait_for_it_and_not_for_a_minute() -> None:
    line = Line()
    line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    line.clock.now += 61
    [probe] = line.sent(*[push("voip") for _ in range(10)])
    assert len(line.sent(push("other"))) == 1, "other topics do not wait"
    assert line.answer(DELIVERED, probe) == []
    assert len(line.lane.take()) == 9
    assert line.lane.waiting == 0


def test_a_hanging_probe_of_a_topic_holds_only_a_quarter_of_the_lane() -> None:
    line = Line(waiting=100)
    line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    line.clock.now += 61
    assert line.sent(push("voip"))
    parked = line.offer(*[push("voip") for _ in range(1000)])
    assert len(parked) == 975
    assert min(parked) > 0, "else they would be claimed again in a tight loop"
    assert line.offer(*[push("other") for _ in range(75)]) == []


def test_a_topics_probe_that_is_not_sent_after_all_leaves_room_for_the_next_one() -> None:
    line = Line()
    line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    line.clock.now += 61
    [probe] = line.sent(push("voip"), push("voip"))
    line.lane.not_sent(probe)
    assert list(line.lane.to_park()) == []
    assert len(line.lane.take()) == 1


def test_a_topics_probe_that_finds_the_lane_full_leaves_room_for_the_next_one() -> None:
    line = Line(waiting=10)
    line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    line.clock.now += 61
    line.offer(*[push() for _ in range(10)])
    assert len(line.offer(push("voip"))) == 1
    assert len(line.lane.take()) == 10
    [probe] = line.sent(push("voip"))
    line.answer(DELIVERED, probe)
    assert line.lane.status().misconfigured_topics == {}


def test_a_probe_that_is_to_go_by_another_route_goes_at_once() -> None:
    """It was parked, which forgets what it has tried: a dead token was tried by the first route again and again."""
    line, device = Line(), apns_device()
    line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", device)))
    line.clock.now = max(pause.until for pause in line.lane.pauses.devices.values()) + 0.001
    (probe,) = line.sent(push("voip", device))
    line.answer(RetryLater(Answer(400, "BadDeviceToken"), Backoff(0.0, 0.0), next_route=_route("voip")), probe)
    again = push("voip", device)
    assert line.sent(again) == [again]


def test_a_topic_goes_on_when_the_last_device_that_paused_it_is_deleted() -> None:
    line, devices = Line(), [apns_device() for _ in range(2)]
    line.answer(WRONG_TOPIC, *line.sent(*[push("voip", device) for device in devices]))
    line.lane.forget(devices[0].owner, devices[0].token)
    assert "voip" in line.lane.status().misconfigured_topics
    line.lane.forget(devices[1].owner, devices[1].token)
    assert line.lane.status().misconfigured_topics == {}
    assert line.sent(push("voip"))


def test_a_device_that_is_registered_anew_is_sent_to_at_once() -> None:
    line, device = Line(), apns_device()
    line.answer(NOT_FOR_TOPIC, *line.sent(push("voip", device)))
    line.lane.forget(device.owner, device.token)
    assert line.sent(push("other", device))


def test_a_topic_that_nobody_uses_any_more_is_not_paused_for_ever() -> None:
    line = Line()
    line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    line.clock.now += 70
    line.lane.look_after(0)
    assert "voip" in line.lane.status().misconfigured_topics
    line.clock.now += 1000
    line.lane.look_after(0)
    assert line.lane.status().misconfigured_topics == {}


def test_a_refused_probe_decides_nothing_about_a_topic() -> None:
    line = Line()
    line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    line.clock.now += 61
    line.answer(Refused(Answer(413, "PayloadTooLarge")), *line.sent(push("voip")))
    assert "voip" in line.lane.status().misconfigured_topics


def test_what_is_emptied_takes_along_what_waits_for_a_topics_probe() -> None:
    line = Line()
    line.answer(WRONG_TOPIC, *line.sent(push("voip")))
    line.clock.now += 61
    line.offer(*[push("voip") for _ in range(5)], *[push() for _ in range(3)])
    assert len(line.lane.empty()) == 8
    assert line.lane.waiting == 0
    line.offer(push("voip"))
    assert len(line.lane.take()) == 1
