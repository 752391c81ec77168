"""All pauses of a lane: of the lane itself, of topics and of devices. Each is half open after its time, for one probe.

Only the answer to a probe ends or renews a pause: what was sent before it began says nothing of how things are now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

import structlog

from tocsin.delivery.open_items import Delivery
from tocsin.delivery.pause import Cause, Pause
from tocsin.delivery.retry import MISCONFIGURED
from tocsin.domain.outcomes import Backoff, Outcome, RetryLater, Withdrawn
from tocsin.domain.routes import PauseStatus

log = structlog.get_logger(__name__)

_BREAKER: Final = Backoff(1.0, 60.0, jitter=False)
_NEXT_PROBE_S: Final = 1.0
"""After a probe whose answer did not speak of the cause."""
_MOST_TOPICS: Final = 1000
_MOST_TOPICS_TOLD: Final = 50
_MOST_DEVICES: Final = 10_000
_UNUSED_S: Final = MISCONFIGURED.cap_s
"""Whatever waits is tried again within so long: a pause that had no probe for longer is one that nothing waits for."""
_FORGET_EVERY_S: Final = 10.0


class Pauses:
    """See the module. `random` is uniform in [0, 1)."""

    def __init__(self, lane: str, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._lane = lane
        self._clock = clock
        self._random = random
        self.of_lane: dict[Cause, Pause] = {}
        self.topics: dict[str, Pause] = {}
        self.devices: dict[str, Pause] = {}
        """By the device's token."""
        self.probes: dict[Delivery, list[Pause]] = {}
        """Deliveries that are a probe, and of which pauses."""
        self.released: list[Delivery] = []
        """Deliveries that no longer wait for a probe: to be given to the lane again."""
        self.since = float("-inf")
        """When a pause of the lane itself began last: what was queued before says nothing of the lane."""
        self._held = 0
        """How many wait for a topic's or a device's probe."""
        self._forget_at = 0.0

    # -- may anything be sent? -----------------------------------------------------------------------------------------

    @property
    def until(self) -> float:
        """Until when the lane may send nothing; 0 where it has no pause."""
        return max((pause.until for pause in self.of_lane.values()), default=0.0)

    def room(self) -> int | None:
        """How many the lane itself may send now; None is no limit."""
        if not self.of_lane:
            return None
        now = self._clock()
        return int(all(pause.is_due(now) for pause in self.of_lane.values()))

    def sort(
        self, deliveries: Sequence[Delivery], hold: Callable[[Delivery], bool]
    ) -> tuple[list[Delivery], list[Delivery]]:
        """Those that may be sent, and those that are to be parked. Where `hold` has room for them, others wait for the
        probe of their topic or device. Devices that were reached before come first: one of them is the better probe."""
        now, may_go, to_park = self._clock(), [], []
        topics, devices = self.topics, self.devices
        if any(pause.is_due(now) for pause in topics.values()):
            deliveries = sorted(deliveries, key=self._unfit_as_probe)
        for delivery in deliveries:
            if delivery.route.topic not in topics and delivery.device.token not in devices:
                may_go.append(delivery)
                continue
            pauses = self.about(delivery)
            if any(pause.until > now for pause in pauses):
                to_park.append(delivery)
            elif (probing := next((pause for pause in pauses if pause.probe is not None), None)) is not None:
                if hold(delivery):
                    probing.waiting.append(delivery)
                    self._held += 1
                else:
                    to_park.append(delivery)
            else:
                self.probe(delivery, pauses)
                may_go.append(delivery)
        return may_go, to_park

    def about(self, delivery: Delivery) -> list[Pause]:
        """The pauses of its topic and its device."""
        topic, device = self.topics.get(delivery.route.topic), self.devices.get(delivery.device.token)
        return [pause for pause in (device, topic) if pause is not None]

    def probe(self, delivery: Delivery, pauses: Iterable[Pause]) -> None:
        """This delivery is sent to see whether these pauses are still needed."""
        for pause in pauses:
            pause.probe, pause.last_probe = delivery, delivery.device.token
            self.probes.setdefault(delivery, []).append(pause)

    @property
    def waiting(self) -> int:
        """How many deliveries wait for a topic's or a device's probe, or have done so until just now."""
        return self._held + len(self.released)

    def statuses(self) -> list[PauseStatus]:
        """Those of the lane, what the operator can mend first; then some of its topics'."""
        now = self._clock()
        of_lane = sorted(self.of_lane.values(), key=lambda pause: pause.cause.value, reverse=True)
        topics = islice(self.topics.items(), _MOST_TOPICS_TOLD)
        return [pause.status(now) for pause in of_lane] + [pause.status(now, topic) for topic, pause in topics]

    # -- answers -------------------------------------------------------------------------------------------------------

    def probed_by(self, delivery: Delivery) -> list[Pause]:
        """The pauses whose probe this delivery was, now that its answer is there: each is to be ended, renewed
        (`open_breaker` and so on), or was not spoken of."""
        return [pause for pause in self.probes.pop(delivery, ()) if pause.probe is delivery]

    def end(self, pause: Pause, delivery: Delivery) -> None:
        """The answer to this delivery, its probe, says that its cause is gone."""
        if pause.cause is Cause.TOPIC:
            self._end_topic(delivery.route.topic)
        elif pause.cause is Cause.DEVICE:
            self._end_device(delivery.device.token)
        else:
            self._end_of_lane(pause)

    def not_spoken_of(self, pause: Pause, outcome: Outcome) -> None:
        """The answer to its probe neither ends nor renews the pause: another probe decides. At once where the delivery
        is to be tried by another route: what it has tried is known only as long as it is not parked."""
        now = self._clock()
        by_another = isinstance(outcome, RetryLater) and outcome.next_route is not None
        pause.release_probe(now if by_another or isinstance(outcome, Withdrawn) else now + _NEXT_PROBE_S)
        self._release_waiting(pause)

    def unsent(self, deliveries: Iterable[Delivery]) -> None:
        """Probes that are not sent after all: the next delivery may be it."""
        for delivery in deliveries:
            for pause in self.probed_by(delivery):
                pause.release_probe(pause.until)
                self._release_waiting(pause)

    # -- a pause begins, or begins again -------------------------------------------------------------------------------

    def open_breaker(self) -> None:
        """The provider, or the link, fails too often."""
        pause = self.of_lane.setdefault(Cause.PROVIDER, Pause(Cause.PROVIDER))
        reason = "the provider or the link to it failed too often"
        for_s = pause.begin(self._begin_of_lane(), reason, _BREAKER, share=0.5 + 0.5 * self._random())
        log.warning("breaker opened", lane=self._lane, next_try_in_s=round(for_s, 1))

    def slow_down(self, reason: str, backoff: Backoff, least_s: float, renewals: int) -> None:
        """A rate was exceeded; `renewals` is how often it was shortly before."""
        pause = self.of_lane.get(Cause.RATE)
        if pause is None:
            pause = self.of_lane[Cause.RATE] = Pause(Cause.RATE)
            pause.renewals = renewals
        for_s = pause.begin(self._begin_of_lane(), reason, backoff, least_s=least_s)
        log.warning("lane pauses", lane=self._lane, reason=reason, next_try_in_s=round(for_s, 1))

    def misconfigured(self, reason: str) -> None:
        """The lane's credential, application or project: the operator must act."""
        pause = self.of_lane.setdefault(Cause.CREDENTIAL, Pause(Cause.CREDENTIAL))
        again_s = pause.begin(self._begin_of_lane(), reason, MISCONFIGURED)
        log.error("lane paused: misconfigured", lane=self._lane, reason=reason, next_try_in_s=round(again_s, 1))

    def topic_misconfigured(self, topic: str, reason: str, *, complaining: Iterable[tuple[str, str]] = ()) -> None:
        """`complaining`: the devices (owner, token) that are said not to belong to it, where that is why it pauses."""
        pause = self.topics.get(topic)
        if pause is None:
            if len(self.topics) >= _MOST_TOPICS:
                return
            pause = self.topics[topic] = Pause(Cause.TOPIC)
            pause.by_devices = bool(complaining)
        pause.complaining.update(complaining)
        again_s = pause.begin(self._clock(), reason, MISCONFIGURED)
        log.error("topic misconfigured", lane=self._lane, topic=topic, reason=reason, next_try_in_s=round(again_s, 1))
        self._release_waiting(pause)

    def device_misconfigured(self, token: str, reason: str) -> None:
        """One device alone: nobody else waits."""
        pause = self.devices.get(token)
        if pause is None:
            if len(self.devices) >= _MOST_DEVICES:
                self._end_device(next(iter(self.devices)))
            pause = self.devices[token] = Pause(Cause.DEVICE)
        pause.begin(self._clock(), reason, MISCONFIGURED)
        self._release_waiting(pause)

    # -- a pause whose cause is gone -----------------------------------------------------------------------------------

    def forget_device(self, owner: str, token: str) -> None:
        """The device was deleted, or is registered anew: what it said counts no longer."""
        self._end_device(token)
        for topic, pause in list(self.topics.items()):
            if (owner, token) in pause.complaining:
                pause.complaining.discard((owner, token))
                if not pause.complaining:
                    self._end_topic(topic)

    def forget_unused(self, *, nothing_waits: bool) -> list[Pause]:
        """End what nothing waits for any more; returns which pauses of the lane itself that were. `nothing_waits`: no
        delivery of this lane is in the store or here."""
        now = self._clock()
        if now < self._forget_at:
            return []
        self._forget_at = now + _FORGET_EVERY_S
        latest = now - (_FORGET_EVERY_S if nothing_waits else _UNUSED_S)
        for topic in [topic for topic, pause in self.topics.items() if pause.is_due(latest)]:
            self._end_topic(topic)
        for token in [token for token, pause in self.devices.items() if pause.is_due(latest)]:
            self._end_device(token)
        unused = [pause for pause in self.of_lane.values() if pause.is_due(latest)]
        for pause in unused:
            self._end_of_lane(pause)
        return unused

    def clear(self) -> None:
        """The credential was replaced: nothing of what was said holds any more."""
        if self.of_lane:
            self.since = self._clock()
            log.info("lane resumes", lane=self._lane)
        self.released = self.take_waiting()
        self.of_lane.clear()
        self.topics.clear()
        self.devices.clear()
        self.probes.clear()

    def take_waiting(self) -> list[Delivery]:
        """Take out all that wait for a topic's or a device's probe."""
        if self._held:
            for pause in (*self.topics.values(), *self.devices.values()):
                self._release_waiting(pause)
        taken, self.released = self.released, []
        return taken

    # ------------------------------------------------------------------------------------------------------------------

    def _begin_of_lane(self) -> float:
        self.since = self._clock()
        return self.since

    def _end_of_lane(self, pause: Pause) -> None:
        del self.of_lane[pause.cause]
        if not self.of_lane:
            log.info("lane resumes", lane=self._lane)

    def _end_topic(self, topic: str) -> None:
        log.info("topic resumes", lane=self._lane, topic=topic)
        pause = self.topics.pop(topic)
        pause.probe = None  # its answer, if one is out, concerns nothing here any more
        self._release_waiting(pause)

    def _end_device(self, token: str) -> None:
        pause = self.devices.pop(token, None)
        if pause is not None:
            pause.probe = None
            self._release_waiting(pause)

    def _release_waiting(self, pause: Pause) -> None:
        """Nothing waits for this pause's probe any more."""
        self._held -= len(pause.waiting)
        self.released += pause.waiting
        pause.waiting.clear()

    def _unfit_as_probe(self, delivery: Delivery) -> tuple[bool, bool]:
        """Sorts first who was not the probe before this one, and was reached before."""
        pause, device = self.topics.get(delivery.route.topic), delivery.device
        return pause is not None and device.token == pause.last_probe, device.last_success_ms is None
