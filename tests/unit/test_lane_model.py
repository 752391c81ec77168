"""Random histories of one lane: none is lost, none is sent twice at once, and nobody waits for another device."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
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

_RATE = Backoff(60.0, 900.0, jitter=False)
_ABOUT_ONE: dict[str, Outcome] = {
    "delivered": Delivered(Answer(200, "")),
    "dead": TokenDead(Answer(410, "Unregistered")),
    "refused": Refused(Answer(413, "PayloadTooLarge")),
    "not for topic": Misconfigured(Answer(400, "DeviceTokenNotForTopic"), Scope.DEVICE),
    "device's rate": RetryLater(Answer(429, "TooManyRequests"), Backoff(30.0, 900.0, jitter=False)),
    "withdrawn": Withdrawn(Answer(0, "not sent")),
    "other connection": RetryLater(Answer(503, "Shutdown"), Backoff(0.0, 300.0)),
}
_ABOUT_MORE: dict[str, Outcome] = {
    "topic": Misconfigured(Answer(400, "TopicDisallowed"), Scope.TOPIC),
    "failure": RetryLater(Answer(503, "ServiceUnavailable"), Backoff(2.0, 300.0), failure=True),
    "lost": RetryLater(Answer(0, "lost"), Backoff(2.0, 300.0), failure=True, shared_failure=True),
    "quota": RetryLater(Answer(429, "QUOTA"), _RATE, 100.0, scope=Scope.LANE),
    "key": Misconfigured(Answer(403, "InvalidProviderToken")),
}
_DEVICES = [apns_device(owner=f"00000000-0000-4000-8000-{number:012d}") for number in range(30)]
_TOPICS = ["", "voip", "wrong"]


def _delivery(device: Device, lane: str, topic: str, message: str) -> Delivery:
    event = make_event(device.owner, message=message)
    item = OpenItem(Item(event, Handle()), Content(event))
    return Delivery(item.content, device, Route("apns", APPLICATION, lane, "production", topic), item=item, tries=0)


class LaneModel(RuleBasedStateMachine):
    about_the_lane = True
    """Whether answers about the whole lane, or a topic, are among those drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        clock = lambda: self.now  # noqa: E731
        route = Route("apns", APPLICATION, f"apns:production:{APPLICATION}", "production")
        self.lane = Lane(route, LaneOptions(20, 60, 10), Fuse(clock), clock, lambda: 0.5)
        self.out: list[Delivery] = []
        self.parked: list[tuple[float, Delivery]] = []
        self.offered = self.finished = 0
        self.complained_of: set[str] = set()

    def offer(self, deliveries: list[Delivery]) -> None:
        self.park(self.lane.offer(deliveries))

    def park(self, deliveries: Any) -> None:
        self.parked += [(self.now + self.lane.wait_s(delivery), delivery) for delivery in deliveries]

    def report(self, delivery: Delivery, outcome: Outcome) -> None:
        lane = self.lane
        self.now += 0.001
        failed = isinstance(outcome, RetryLater) and outcome.failure
        healthy = int(not failed and not isinstance(outcome, Withdrawn))
        failures = [delivery.device.token] if failed and lane.counts(delivery) else []
        lane.ended(1, healthy=healthy, failures=failures)
        if isinstance(outcome, Delivered):
            lane.evidence.reach(delivery.route.topic, 0)
        lane.answered(delivery, outcome)
        lane.share.give_back(delivery.size_bytes)
        if isinstance(outcome, RetryLater | Misconfigured):
            self.parked.append((self.now + 1, delivery))
        else:
            self.finished += 1
        self.park(lane.to_park())

    @rule(
        devices=st.lists(st.sampled_from(_DEVICES), max_size=30),
        topic=st.sampled_from(_TOPICS),
        message=st.sampled_from(("fax_new", "dialplan_callreverse_start")),
    )
    def comes(self, devices: list[Any], topic: str, message: str) -> None:
        self.now += 0.001
        made = [_delivery(device, self.lane.name, topic, message) for device in devices]
        self.offered += len(made)
        self.offer(made)

    @rule()
    def sends(self) -> None:
        self.now += 0.001
        taken = self.lane.take()
        if self.lane.pauses.of_lane:
            assert len(taken) <= 1
        self.out += taken

    @precondition(lambda self: self.out)
    @rule(data=st.data(), number=st.integers(0, 1000))
    def is_answered(self, data: st.DataObject, number: int) -> None:
        outcomes = _ABOUT_ONE | _ABOUT_MORE if self.about_the_lane else _ABOUT_ONE
        delivery = self.out.pop(number % len(self.out))
        name = data.draw(st.sampled_from(sorted(outcomes)))
        if name == "not for topic":
            self.complained_of.add(delivery.device.token)
        self.report(delivery, outcomes[name])

    @precondition(lambda self: self.out)
    @rule(number=st.integers(0, 1000))
    def is_not_sent_after_all(self, number: int) -> None:
        delivery = self.out.pop(number % len(self.out))
        self.lane.not_sent(delivery)
        self.finished += 1
        self.park(self.lane.to_park())

    @rule(seconds=st.sampled_from([0.5, 2.0, 61.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.lane.look_after(0 if self.parked else None)
        self.park(self.lane.to_park())
        due = [delivery for at, delivery in self.parked if at <= self.now][: self.lane.room]
        self.parked = [one for one in self.parked if one[1] not in due]
        self.offer(due)

    @rule(device=st.sampled_from(_DEVICES))
    def is_registered_anew(self, device: Any) -> None:
        self.lane.forget(device.owner, device.token)
        self.park(self.lane.to_park())

    @rule()
    def credential_is_replaced(self) -> None:
        self.lane.resume()
        self.park(self.lane.to_park())
        assert self.lane.status().state is LaneState.RUNNING

    @rule()
    def everything_is_parked(self) -> None:
        self.park(self.lane.empty())

    @invariant()
    def none_is_lost_and_none_is_there_twice(self) -> None:
        lane = self.lane
        assert lane.in_flight == len(self.out)
        assert self.offered == self.finished + len(self.out) + len(self.parked) + lane.waiting
        here = [*lane._urgent, *lane._others, *lane.pauses.released]
        for pause in (*lane.pauses.topics.values(), *lane.pauses.devices.values()):
            here += pause.waiting
            assert pause.probe is not None or not pause.waiting
        assert len(here) == lane.waiting <= 60
        assert lane.share.held_bytes == sum(one.size_bytes for one in (*here, *self.out))
        assert max(Counter([*here, *self.out, *[one for _, one in self.parked]]).values(), default=1) == 1

    @invariant()
    def whoever_nothing_is_said_against_does_not_wait_for_a_time(self) -> None:
        if self.about_the_lane:
            return
        # Answers about single devices are all there is: no lane, and no topic, may be paused for them.
        status = self.lane.status()
        assert status.state is LaneState.RUNNING
        if len(self.complained_of) < 20:
            assert status.misconfigured_topics == {}
            assert self.complained_of >= self.lane.pauses.devices.keys()

    def teardown(self) -> None:
        """Everything is well again: whatever waits is delivered."""
        self.lane.ended(0, healthy=0)
        for _ in range(4000):
            while self.out:
                self.report(self.out.pop(), _ABOUT_ONE["delivered"])
            self.time_passes(5.0)
            self.out += self.lane.take()
            if self.finished == self.offered:
                return
        raise AssertionError(self.lane.status())


class DevicesModel(LaneModel):
    about_the_lane = False


TestALane = LaneModel.TestCase
TestALaneWhoseAnswersAreAboutSingleDevices = DevicesModel.TestCase
for _test in (TestALane, TestALaneWhoseAnswersAreAboutSingleDevices):
    _test.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)
