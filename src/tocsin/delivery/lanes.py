"""One lane per (provider, environment, application or project): what it may hold, and whether it may send at all.

A lane that is slow, broken or misconfigured parks its deliveries in the queue; no other lane feels it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from msgspec import Struct

from tocsin.delivery.breaker import Breaker
from tocsin.delivery.fuse import Fuse
from tocsin.delivery.retry import MISCONFIGURED, delay_s
from tocsin.domain.events import URGENT
from tocsin.domain.lanes import LaneState, LaneStatus
from tocsin.providers.base import Push

log = structlog.get_logger(__name__)

_SLOW_AFTER_S: Final = 1.0
_MOST_TOPICS: Final = 1000


class LaneOptions(Struct, frozen=True):
    in_flight: int
    waiting: int
    first_in_flight: int = 500
    """So many are sent into the dark; each that comes back well lets one more out, up to `in_flight`.

    Lanes of one key share connections, whose streams a provider that never answers would otherwise take from all.
    """


class Lane:
    """See the module. Times are the event loop's (monotonic seconds)."""

    def __init__(
        self, name: str, options: LaneOptions, fuse: Fuse, clock: Callable[[], float], dice: Callable[[], float]
    ) -> None:
        self.name = name
        self._options = options
        self._clock = clock
        self._urgent: deque[Push] = deque()
        self._bulk: deque[Push] = deque()
        self.in_flight = 0
        self._window = min(options.in_flight, options.first_in_flight)
        self._turn = 0
        self.breaker = Breaker(clock, dice)
        self.fuse = fuse
        self._paused_until = 0.0
        self._pauses = 0
        self._pause_reason = ""
        self._misconfigured = False
        self._probing = False
        self._topics: dict[str, tuple[str, float]] = {}

    # -- deliveries in, deliveries out ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._urgent) + len(self._bulk)

    @property
    def room(self) -> int:
        """How many parked deliveries may be claimed for this lane."""
        if not self.may_send:
            return 0
        if self._allowed() is not None:
            return max(0, 1 - self.waiting)
        # Not in drops: each claim of parked deliveries is a write.
        return self._options.waiting - self.waiting if self.waiting <= self._options.waiting // 2 else 0

    @property
    def may_send(self) -> bool:
        allowed = self._allowed()
        return allowed is None or allowed > 0

    @property
    def busy(self) -> bool:
        """Enough waits here that nothing more should be claimed, unless the lane is slow."""
        return self.waiting > self._options.waiting // 2

    @property
    def slow(self) -> bool:
        """What waits here waits long: what else comes is parked when the lane is full, and the others need not wait."""
        oldest = min((waiting[0].queued_at for waiting in (self._urgent, self._bulk) if waiting), default=None)
        return oldest is not None and self._clock() - oldest > _SLOW_AFTER_S

    @property
    def full(self) -> bool:
        return self.waiting >= self._options.waiting

    @property
    def has_paused_topics(self) -> bool:
        return bool(self._topics)

    def offer(self, pushes: Sequence[Push]) -> Sequence[Push]:
        """Take deliveries to be sent; returns those that are to be parked."""
        if not self.may_send:
            return pushes
        rejected: list[Push] = []
        if self._topics:
            rejected = [push for push in pushes if self._topic_paused(push)]
            pushes = [push for push in pushes if not self._topic_paused(push)]
        room = self._options.waiting - self.waiting
        if room < len(pushes):
            rejected += pushes[room:]
            pushes = pushes[:room]
        now = self._clock()
        for push in pushes:
            push.queued_at = now
            (self._urgent if push.rendering.event.message in URGENT else self._bulk).append(push)
        return rejected

    def take(self) -> list[Push]:
        """Those whose turn it is, within the bound of what may be on the wire: urgent ones first, but a quarter of the
        room is the others'."""
        count = self._window - self.in_flight
        allowed = self._allowed()
        if allowed is not None:
            count = min(count, allowed)
        if count <= 0 or not self.waiting:
            return []
        self._turn = (self._turn + 1) % 4  # a room of one cannot be divided: every fourth turn is the others'
        kept = min(len(self._bulk), (count + self._turn) // 4)
        taken: list[Push] = []
        for waiting, most in ((self._urgent, count - kept), (self._bulk, count), (self._urgent, count)):
            if waiting and len(taken) < most:
                taken += [waiting.popleft() for _ in range(min(len(waiting), most - len(taken)))]
        self.in_flight += len(taken)
        self.breaker.sent()
        self._probing = self._misconfigured or self._paused_until > 0
        return taken

    def unsent(self) -> None:
        """One that was taken is not sent after all."""
        self.in_flight -= 1
        self._probing = False
        self.breaker.unsent()

    def turn_out(self) -> list[Push]:
        """Everything that waits in memory while the lane may not send: it is parked."""
        if self.may_send:
            return []
        return self.empty()

    def empty(self) -> list[Push]:
        out = [*self._urgent, *self._bulk]
        self._urgent.clear()
        self._bulk.clear()
        return out

    # -- how attempts ended --------------------------------------------------------------------------------------------

    def ended(self, attempts: int, *, healthy: int, faults: int, dead: int) -> None:
        """Count what came back: how many of the attempts were answered, and in how many faults the others failed."""
        self.in_flight -= attempts
        self._probing = False
        if healthy:
            self.breaker.healthy(healthy)
            self._window = min(self._options.in_flight, self._window + healthy)
        elif not faults:
            self.breaker.unsent()
        for _ in range(faults):
            self._window = min(self._window, max(self._options.first_in_flight, self._window // 2))
            if self.breaker.fault():
                log.warning("breaker opened", lane=self.name, for_s=round(self.breaker.open_until - self._clock(), 1))
        if self.fuse.count(healthy, dead):
            log.error("fuse blown: too many dead tokens; removals are quarantined", lane=self.name)

    def misconfigured(self, reason: str, topic: str | None) -> None:
        """The operator must act. One topic, or the whole lane: paused, tried again after a growing pause."""
        now = self._clock()
        if topic is not None:
            if topic not in self._topics:
                log.error("topic misconfigured", lane=self.name, topic=topic, reason=reason)
            if len(self._topics) < _MOST_TOPICS or topic in self._topics:
                self._topics[topic] = (reason, now + MISCONFIGURED.first_s)
            return
        if self._misconfigured and now < self._paused_until:
            return  # sent before it paused
        if not self._misconfigured:
            log.error("lane paused: misconfigured", lane=self.name, reason=reason)
        self._misconfigured = True
        self._pause_reason = reason
        self._paused_until = now + delay_s(MISCONFIGURED, self._pauses, 0.0)
        self._pauses += 1
        self._probing = False

    def pause(self, seconds: float, reason: str) -> None:
        """The provider asked for a pause of the whole lane."""
        if self._clock() + seconds > self._paused_until:
            log.warning("lane pauses", lane=self.name, for_s=round(seconds, 1), reason=reason)
            self._paused_until = self._clock() + seconds
            self._pause_reason = reason

    def delivered(self, topic: str) -> None:
        """Something arrived: whatever was misconfigured no longer is."""
        if self._misconfigured:
            log.info("lane resumes", lane=self.name)
            self.resume()
        if self._topics:
            self._topics.pop(topic, None)

    def resume(self) -> None:
        """The credential was replaced (or works again)."""
        self._misconfigured = self._probing = False
        self._paused_until = 0.0
        self._pauses = 0
        self._pause_reason = ""
        self._topics.clear()
        self.breaker.close()

    def status(self) -> LaneStatus:
        state = LaneState.RUNNING
        reason = ""
        if self._misconfigured or self._clock() < self._paused_until:
            state, reason = LaneState.PAUSED, self._pause_reason
        elif self.breaker.is_open:
            state, reason = LaneState.OPEN, "the provider or the link to it failed too often"
        topics = {topic: why for topic, (why, _) in self._topics.items()}
        return LaneStatus(self.name, state, reason, self.in_flight, self.waiting, topics, self.fuse.blown)

    @property
    def is_misconfigured(self) -> bool:
        return self._misconfigured

    def next_chance(self) -> float | None:
        """When a lane that may not send now may try again (loop time), or None when it may."""
        times = [at for at in (self._paused_until, self.breaker.open_until) if at > self._clock()]
        return max(times, default=None)

    def _allowed(self) -> int | None:
        """How many attempts the lane's state allows now; None is no limit."""
        if self._paused_until > 0:
            if self._clock() < self._paused_until:
                return 0
            if self._misconfigured:
                return 0 if self._probing else 1
            self._paused_until = 0.0
        return self.breaker.room()

    def _topic_paused(self, push: Push) -> bool:
        paused = self._topics.get(push.device.topic) if self._topics else None
        return paused is not None and self._clock() < paused[1]
