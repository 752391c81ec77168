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
from tocsin.delivery.fuse import Fuse
from tocsin.delivery.memory import DELIVERY_BYTES, Memory, Share
from tocsin.delivery.open_items import Delivery
from tocsin.delivery.pauses import Pauses
from tocsin.domain.events import URGENT
from tocsin.domain.routes import LaneState, LaneStatus, Route
from tocsin.domain.urgency import Turns, divide

log = structlog.get_logger(__name__)

_SLOW_AFTER_S: Final = 1.0


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
        self._route = route
        self._options = options
        self._clock = clock
        self._urgent: deque[Delivery] = deque()
        self._others: deque[Delivery] = deque()
        self._turns = Turns()
        self._window = min(options.in_flight, options.first_in_flight)
        self.in_flight = 0
        self._round_at = 0.0
        """Since when the attempts are out of which `_round_left` have not come back (`clock`)."""
        self._round_left = 0
        self.share = Share(memory or Memory())
        """What it holds in memory: whoever takes a delivery out of the lane gives it back."""
        self.breaker = Breaker(clock, random)
        self.pauses = Pauses(self.name, clock)
        self.fuse = fuse

    # -- deliveries in, deliveries out ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._urgent) + len(self._others)

    @property
    def room(self) -> int:
        """How many parked deliveries may be claimed for this lane."""
        if not self.may_send:
            return 0
        if self._allowed() is not None:
            return max(0, 1 - self.waiting)
        if self.busy:
            return 0
        # Many at a time, as each claim of parked deliveries is a write; and so few that they fit, with what is fresh.
        return max(1, min(self._options.waiting // 4, self.room_bytes // DELIVERY_BYTES))

    @property
    def room_bytes(self) -> int:
        """How much content may be claimed with them."""
        return self.share.room_bytes // 2

    @property
    def may_send(self) -> bool:
        allowed = self._allowed()
        return allowed is None or allowed > 0

    @property
    def busy(self) -> bool:
        """Enough is here that nothing more should be claimed, unless the lane is slow."""
        return self.waiting > self._options.waiting // 2 or self.share.is_half_full

    @property
    def slow(self) -> bool:
        """What is here stays long: what else comes is parked when the lane is full, and the others need not wait."""
        oldest = [waiting[0].queued_at for waiting in (self._urgent, self._others) if waiting]
        if self.in_flight:
            oldest.append(self._round_at)
        return bool(oldest) and self._clock() - min(oldest) > _SLOW_AFTER_S

    @property
    def full(self) -> bool:
        return self.waiting >= self._options.waiting or not self.share.room_bytes

    def offer(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Take deliveries to be sent; returns those that are to be parked."""
        if not self.may_send:
            return deliveries
        rejected: list[Delivery] = []
        if self.pauses.topics:
            paused = self.pauses.topic_is_paused
            rejected = [delivery for delivery in deliveries if paused(delivery.route.topic)]
            deliveries = [delivery for delivery in deliveries if not paused(delivery.route.topic)]
        sizes = [delivery.size_bytes for delivery in deliveries]
        room = self.share.take_first(sizes[: max(0, self._options.waiting - self.waiting)])
        if room < len(deliveries):
            rejected += deliveries[room:]
            deliveries = deliveries[:room]
        now = self._clock()
        for delivery in deliveries:
            delivery.queued_at = now
            (self._urgent if delivery.content.event.message in URGENT else self._others).append(delivery)
        return rejected

    def take(self) -> list[Delivery]:
        """Those whose turn it is, within the bound of what may be on the wire: urgent ones first, but some room is
        reserved for the others."""
        count = self._window - self.in_flight
        allowed = self._allowed()
        if allowed is not None:
            count = min(count, allowed)
        urgent, others = self._urgent, self._others
        if count <= 0 or not (urgent or others):
            return []
        first, rest = divide(count, len(urgent), len(others), self._turns.next())
        taken = _take(urgent, first)
        taken += _take(others, rest)
        if not self.in_flight:
            self._round_at, self._round_left = self._clock(), len(taken)
        self.in_flight += len(taken)
        self.breaker.sent()
        self.pauses.sent()
        return taken

    def unsent(self) -> None:
        """One that was taken is not sent after all."""
        self.in_flight -= 1
        self.pauses.ended()
        self.breaker.unsent()

    def to_park(self) -> list[Delivery]:
        """Take out what waits while the lane may not send."""
        return [] if self.may_send else self.empty()

    def empty(self) -> list[Delivery]:
        """Take out everything that waits."""
        out = [*self._urgent, *self._others]
        self._urgent.clear()
        self._others.clear()
        self.share.give_back(sum([delivery.size_bytes for delivery in out]))
        return out

    # -- how attempts ended --------------------------------------------------------------------------------------------

    def ended(self, attempts: int, *, healthy: int, failures: int, dead: int) -> None:
        """Count what came back: how many of the attempts were answered, how many failures the others came from, and how
        many tokens were declared dead."""
        self.in_flight -= attempts
        self._round_left -= attempts
        if self._round_left <= 0:
            self._round_at, self._round_left = self._clock(), self.in_flight
        self.pauses.ended()
        if healthy:
            self.breaker.healthy(healthy)
            self._window = min(self._options.in_flight, self._window + healthy)
        elif not failures:
            self.breaker.unsent()
        for _ in range(failures):
            self._window = min(self._window, max(self._options.first_in_flight, self._window // 2))
            if self.breaker.failure():
                log.warning("breaker opened", lane=self.name, for_s=round(self.breaker.open_until - self._clock(), 1))
        if self.fuse.count(healthy, dead):
            log.error("fuse blown: too many dead tokens; removals are quarantined", lane=self.name)

    def delivered(self, topic: str) -> None:
        """A push of this topic was delivered: whatever was misconfigured no longer is."""
        if self.pauses.delivered(topic):
            self.breaker.close()

    def resume(self) -> None:
        """What the lane waited for has been mended (its credential was replaced, say): it may send again at once."""
        self.pauses.end()
        self.breaker.close()

    # -- how it is -----------------------------------------------------------------------------------------------------

    def next_chance(self) -> float | None:
        """When a lane that may not send now may try again (loop time), or None when it may."""
        times = [at for at in (self.pauses.until, self.breaker.open_until) if at > self._clock()]
        return max(times, default=None)

    def status(self) -> LaneStatus:
        state, reason = LaneState.RUNNING, ""
        if self.pauses.is_paused:
            state, reason = LaneState.PAUSED, self.pauses.reason
        elif self.breaker.is_open:
            state, reason = LaneState.OPEN, "the provider or the link to it failed too often"
        route = self._route
        return LaneStatus(
            self.name,
            state,
            reason,
            self.in_flight,
            self.waiting,
            {topic: why for topic, (why, _) in self.pauses.topics.items()},
            self.fuse.blown,
            route.provider,
            route.environment,
            route.account,
        )

    def _allowed(self) -> int | None:
        """How many attempts the lane's state allows now; None is no limit."""
        allowed = self.pauses.room()
        return self.breaker.room() if allowed is None else allowed


def _take(waiting: deque[Delivery], count: int) -> list[Delivery]:
    if count < len(waiting):
        return [waiting.popleft() for _ in range(count)]
    taken = list(waiting)
    waiting.clear()
    return taken
