"""One lane: what it may hold, what it may send, and whether it may send at all.

A lane that is slow, broken or misconfigured has its deliveries parked in the store; no other lane is delayed by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from msgspec import Struct

from tocsin.delivery.breaker import Breaker
from tocsin.delivery.evidence import Evidence
from tocsin.delivery.fuse import Fuse
from tocsin.delivery.memory import DELIVERY_BYTES, Memory, Share
from tocsin.delivery.open_items import Delivery
from tocsin.delivery.pause import Cause, Pause, ends, renews, subject
from tocsin.delivery.pauses import Pauses
from tocsin.delivery.ramp import Ramp
from tocsin.domain.events import URGENT
from tocsin.domain.outcomes import Outcome, RetryLater
from tocsin.domain.routes import LaneState, LaneStatus, Route
from tocsin.domain.urgency import Turns, divide, reserved

log = structlog.get_logger(__name__)

_SLOW_AFTER_S: Final = 1.0
_PROBE_OUT_S: Final = 5.0
"""For so long is parked what finds no room behind a topic's or a device's probe."""


class LaneOptions(Struct, frozen=True):
    in_flight: int
    waiting: int
    first_in_flight: int = 500
    """The initial window (slow start): so many are sent before anything was answered. Each answer widens it by one, up
    to `in_flight`.

    A provider that never answers holds no more than this of a lane that has just begun.
    """


class Lane:
    """See the module. Times are the event loop's (monotonic seconds); `random` is uniform in [0, 1)."""

    def __init__(
        self,
        route: Route,
        options: LaneOptions,
        fuse: Fuse,
        clock: Callable[[], float],
        random: Callable[[], float],
        memory: Memory | None = None,
    ) -> None:
        """`route` is any route of the lane; `memory` is shared with the other lanes."""
        self.name = route.lane
        self.provider = route.provider
        self.account = route.account
        self._route = route
        self._options = options
        self._clock = clock
        self._urgent: deque[Delivery] = deque()
        self._others: deque[Delivery] = deque()
        self._turns = Turns()
        self._window = min(options.in_flight, options.first_in_flight)
        self.in_flight = 0
        self.parked_due_ms: int | None = None
        """When the first of what is parked for it is due, as far as it was told; None where nothing is."""
        self._round_at = 0.0
        """Since when the attempts are out of which `_round_left` have not come back (`clock`)."""
        self._round_left = 0
        self.share = Share(memory or Memory())
        """What it holds in memory: whoever takes a delivery out of the lane gives it back."""
        self.breaker = Breaker()
        self.pauses = Pauses(self.name, clock, random)
        self.evidence = Evidence()
        self.fuse = fuse
        self._ramp: Ramp | None = None
        self._resumed = False

    # -- deliveries in, deliveries out ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._urgent) + len(self._others) + self.pauses.waiting

    @property
    def room(self) -> int:
        """How many parked deliveries may be claimed for this lane."""
        allowed = self.pauses.room()
        if allowed is not None:
            return max(0, allowed - self.waiting)
        if self.busy:
            return 0
        # Many at a time, as each claim of parked deliveries is a write; and so few that they fit, with what is fresh.
        return max(1, min(self._options.waiting // 4, self.room_bytes // DELIVERY_BYTES))

    @property
    def room_for_the_fewer(self) -> tuple[bool, int]:
        """Where there is no room for both kinds: whether fewer urgent ones wait than others, and how many of the kind
        of which fewer wait may be claimed, until they are a quarter. What is more makes way for them (`_take_places`).
        Else what is parked would wait for the end of a flood of the other kind."""
        urgent, others = len(self._urgent), len(self._others)
        if self.pauses.room() is not None:
            return True, 0
        room = reserved(urgent + others, 0) - min(urgent, others)
        return urgent < others, max(0, min(self._options.waiting // 8, room))

    @property
    def room_bytes(self) -> int:
        """How much content may be claimed with them."""
        return self.share.room_bytes // 2

    @property
    def may_send(self) -> bool:
        """Whether what comes may be sent soon: it waits in the lane while a probe is out, but not until a time."""
        pauses = self.pauses
        return not pauses.of_lane or pauses.until <= self._clock()

    @property
    def busy(self) -> bool:
        """Enough is here that nothing more should be claimed, unless the lane is slow."""
        return self.waiting > self._options.waiting // 2 or self.share.is_half_full

    @property
    def slow(self) -> bool:
        """What is here stays long: what else comes is parked when the lane is full, and the others need not wait."""
        if self.pauses.of_lane or self._ramp is not None:
            return True
        oldest = [waiting[0].queued_at for waiting in (self._urgent, self._others) if waiting]
        if self.in_flight:
            oldest.append(self._round_at)
        return bool(oldest) and self._clock() - min(oldest) > _SLOW_AFTER_S

    @property
    def full(self) -> bool:
        return self.waiting >= self._options.waiting or not self.share.room_bytes

    def offer(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Take deliveries to be sent; returns those that are to be parked, each for `wait_s`."""
        if not self.may_send:
            return deliveries
        rejected: list[Delivery] = []
        if self.pauses.topics or self.pauses.devices:
            deliveries, rejected = self.pauses.sort(deliveries, self._hold)
        sizes = [delivery.size_bytes for delivery in deliveries]
        room = self.share.take_first(sizes[: max(0, self._options.waiting - self.waiting)])
        if not room and sizes and self.pauses.room() and not self.waiting:
            self.share.take(sizes[0])  # the probe, even when what hangs has left no room
            room = 1
        full: Sequence[Delivery] = ()
        if room < len(deliveries):
            full, deliveries = deliveries[room:], deliveries[:room]
        now = self._clock()
        for delivery in deliveries:
            delivery.queued_at = now
            (self._urgent if delivery.content.event.message in URGENT else self._others).append(delivery)
        if full:
            rejected += self._take_places(full)
        return rejected

    def _take_places(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """There is no room for these. Urgent ones take the places of the newest others, but for a quarter; the others
        take places of urgent ones, up to that quarter. Else a flood of the ones would keep the others in the store
        until its end. Returns those that have no place now."""
        now, without = self._clock(), []
        kept = reserved(len(self._urgent) + len(self._others), 0)
        for delivery in deliveries:
            mine, theirs, may = self._others, self._urgent, len(self._others) < kept
            if delivery.content.event.message in URGENT:
                mine, theirs, may = self._urgent, self._others, len(self._others) > kept
            if may and theirs:
                displaced = theirs.pop()
                without.append(displaced)
                self.share.give_back(displaced.size_bytes)
                if self.share.take_first([delivery.size_bytes]):
                    delivery.queued_at = now
                    mine.append(delivery)
                    continue
            without.append(delivery)
        self.unsent(*without)
        return without

    def wait_s(self, delivery: Delivery) -> float:
        """For how long to park a delivery that the lane has not taken."""
        if not (self.pauses.of_lane or self.pauses.topics or self.pauses.devices):
            return 0.0  # it was full
        now, about = self._clock(), self.pauses.about(delivery)
        until = max((pause.until for pause in about), default=0.0)
        if about and until <= now:
            until = now + _PROBE_OUT_S
        return max(0.0, until - now, self.pauses.until - now)

    def take(self) -> list[Delivery]:
        """Those whose turn it is, within the bound of what may be on the wire: urgent ones first, but some room is
        reserved for the others."""
        count = self._window - self.in_flight
        if self.pauses.of_lane:
            # A probe may go out even when all the others hang.
            count = self.pauses.room() or 0
        elif self._ramp is not None:
            count = min(count, self._ramp_room())
        urgent, others = self._urgent, self._others
        if count <= 0 or not (urgent or others):
            return []
        first, rest = divide(count, len(urgent), len(others), self._turns.next())
        taken = _take(urgent, first)
        taken += _take(others, rest)
        if not self.in_flight:
            self._round_at, self._round_left = self._clock(), len(taken)
        self.in_flight += len(taken)
        if self.pauses.of_lane:
            self.pauses.probe(taken[0], self.pauses.of_lane.values())
        elif self._ramp is not None:
            self._ramp.sent(len(taken))
        return taken

    def not_sent(self, delivery: Delivery) -> None:
        """One that was taken is not sent after all."""
        self.in_flight -= 1
        self.share.give_back(delivery.size_bytes)
        self.unsent(delivery)

    def unsent(self, *deliveries: Delivery) -> None:
        """These were to be sent, and are not: where one was a probe, the next one may be it."""
        if self.pauses.probes:
            self.pauses.unsent(deliveries)

    def to_park(self) -> list[Delivery]:
        """Take out what waits while it may not be sent."""
        out = [] if self.may_send else self.empty()
        if self.pauses.released:
            released, self.pauses.released = self.pauses.released, []
            self.share.give_back(sum([delivery.size_bytes for delivery in released]))
            out += self.offer(released)
        return out

    def empty(self) -> list[Delivery]:
        """Take out everything that waits."""
        out = [*self._urgent, *self._others]
        self._urgent.clear()
        self._others.clear()
        self.unsent(*out)
        out += self.pauses.take_waiting()
        self.share.give_back(sum([delivery.size_bytes for delivery in out]))
        return out

    # -- how attempts ended --------------------------------------------------------------------------------------------

    def ended(self, attempts: int, *, healthy: int, failures: Sequence[str] = (), dead: int = 0) -> None:
        """Count what came back: how many of the attempts were answered, the devices of those that failed (as far as
        it `counts`; or `breaker.LINK`), and how many tokens were declared dead."""
        self.in_flight -= attempts
        self._round_left -= attempts
        if self._round_left <= 0:
            self._round_at, self._round_left = self._clock(), self.in_flight
        if healthy:
            self.breaker.healthy(healthy)
            self._window = min(self._options.in_flight, self._window + healthy)
        for device in failures:
            self._window = min(self._window, max(self._options.first_in_flight, self._window // 2))
            if self.breaker.failure(device):
                self.breaker.close()
                self.pauses.open_breaker()
                break
        if self.fuse.count(healthy, dead):
            log.error("fuse blown: too many dead tokens; removals are quarantined", lane=self.name)

    def counts(self, delivery: Delivery) -> bool:
        """Whether the failure of an attempt counts towards the breaker: not while that is open, and not where the
        attempt was made before the lane's last pause."""
        return Cause.PROVIDER not in self.pauses.of_lane and (
            delivery in self.pauses.probes or delivery.queued_at >= self.pauses.since
        )

    def answered(self, delivery: Delivery, outcome: Outcome) -> None:
        """What an attempt's outcome, or a probe's, comes to for what is paused. `ended` was told of it before."""
        pauses, about = self.pauses, subject(outcome)
        probed = pauses.probed_by(delivery)
        for pause in probed:
            if renews(pause, outcome):
                self._begin(pause.cause, delivery, outcome)
            elif ends(pause, outcome):
                pauses.end(pause, delivery)
                self._has_ended(pause)
            else:
                pauses.not_spoken_of(pause, outcome)
        match about:
            case Cause.RATE | Cause.CREDENTIAL:
                if about not in pauses.of_lane and (probed or delivery.queued_at >= pauses.since):
                    self._begin(about, delivery, outcome)
            case Cause.TOPIC:
                if delivery.route.topic not in pauses.topics:
                    self._begin(about, delivery, outcome)
                if (topic := pauses.topics.get(delivery.route.topic)) is not None:
                    topic.complained_by(delivery)
            case Cause.DEVICE:
                if delivery.device.token not in pauses.devices:
                    self._begin(about, delivery, outcome)
                complaining = self.evidence.not_for_topic(delivery, self._clock())
                if complaining and delivery.route.topic not in pauses.topics:
                    pauses.topic_misconfigured(delivery.route.topic, outcome.answer.reason, complaining=complaining)

    def slow_down(self, outcome: RetryLater) -> None:
        """A rate that the lane has part in was exceeded. While the lane pauses for one already, its probe decides."""
        if Cause.RATE not in self.pauses.of_lane:
            self._slow_down(outcome)

    def has_resumed(self) -> bool:
        """Whether one of its pauses has ended since this was asked last."""
        resumed, self._resumed = self._resumed, False
        return resumed

    def resume(self) -> None:
        """What the lane waited for has been mended (its credential was replaced, say): it may send again at once."""
        self._resumed = True
        self.pauses.clear()
        for waiting in (*self._urgent, *self._others):
            waiting.queued_at = self._clock()  # what comes of it will speak of the new credential
        self.evidence.clear()
        self.breaker.close()
        self._ramp = None

    def forget(self, owner: str, token: str) -> None:
        """A device was deleted or registered anew: what pauses for its sake goes on."""
        if self.pauses.topics or self.pauses.devices or self.evidence:
            self.evidence.forget(owner, token)
            self.pauses.forget_device(owner, token)

    def look_after(self, parked_due_ms: int | None) -> None:
        """Called about once a second, with when the first of what is parked for the lane is due: end pauses for which
        nothing waits any more."""
        self.parked_due_ms = parked_due_ms
        pauses = self.pauses
        if pauses.of_lane or pauses.topics or pauses.devices:
            nothing_waits = parked_due_ms is None and not (self.waiting or self.in_flight)
            for pause in pauses.forget_unused(nothing_waits=nothing_waits):
                self._has_ended(pause)

    def _begin(self, cause: Cause, delivery: Delivery, outcome: Outcome) -> None:
        reason, topic = outcome.answer.reason, delivery.route.topic
        match cause:
            case Cause.PROVIDER:
                self.pauses.open_breaker()
            case Cause.RATE:
                assert isinstance(outcome, RetryLater)
                self._slow_down(outcome)
            case Cause.CREDENTIAL:
                self.pauses.misconfigured(reason)
            case Cause.TOPIC:
                self.pauses.topic_misconfigured(topic, reason)
            case Cause.DEVICE:
                self.pauses.device_misconfigured(delivery.device.token, reason)

    def _slow_down(self, outcome: RetryLater) -> None:
        renewals = 0 if self._ramp is None else self._ramp.renewals
        self._ramp = None
        self.pauses.slow_down(outcome.answer.reason, outcome.backoff, outcome.after_s or 0.0, renewals)

    def _has_ended(self, pause: Pause) -> None:
        self._resumed = True
        if pause.cause is Cause.PROVIDER:
            self.breaker.close()
        elif pause.cause is Cause.RATE:
            self._ramp = Ramp(self._clock(), self._options.in_flight, pause.renewals)

    # -- how it is -----------------------------------------------------------------------------------------------------

    def next_chance(self) -> float | None:
        """When a lane that may not send now may try again (loop time), or None when it may."""
        return None if self.may_send else self.pauses.until

    def status(self) -> LaneStatus:
        state, reason = LaneState.RUNNING, ""
        if self.pauses.of_lane:
            # What the operator can mend is named first.
            cause = max(self.pauses.of_lane, key=lambda cause: cause.value)
            state = LaneState.OPEN if cause is Cause.PROVIDER else LaneState.PAUSED
            reason = self.pauses.of_lane[cause].reason
        route = self._route
        return LaneStatus(
            self.name,
            state,
            reason,
            self.in_flight,
            self.waiting,
            {topic: pause.reason for topic, pause in self.pauses.topics.items()},
            self.fuse.blown,
            route.provider,
            route.environment,
            route.account,
            len(self.pauses.devices),
            self.pauses.statuses(),
            self.parked_due_ms,
        )

    def _hold(self, delivery: Delivery) -> bool:
        """Whether there is room for one more that waits for a topic's or a device's probe: a quarter of the lane."""
        most = self._options.waiting // 4
        return self.pauses.waiting < most and not self.full and self.share.take_first([delivery.size_bytes]) == 1

    def _ramp_room(self) -> int:
        """How many may be sent now, shortly after a pause for a rate."""
        room = None if self._ramp is None else self._ramp.room(self._clock())
        if room is None:
            self._ramp = None
            return self._window
        return room


def _take(waiting: deque[Delivery], count: int) -> list[Delivery]:
    if count < len(waiting):
        return [waiting.popleft() for _ in range(count)]
    taken = list(waiting)
    waiting.clear()
    return taken
