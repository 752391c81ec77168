"""A lane's pauses: because the provider asked for one, or because something is misconfigured, a topic or all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from tocsin.delivery.retry import MISCONFIGURED, delay_s

log = structlog.get_logger(__name__)

_MOST_TOPICS: Final = 1000


class Pauses:
    """While something is misconfigured, one attempt at a time is made after each pause, to see whether it still is."""

    def __init__(self, lane: str, clock: Callable[[], float]) -> None:
        self._lane = lane
        self._clock = clock
        self._until = 0.0
        self._count = 0
        self._probing = False
        self.is_misconfigured = False
        self.reason = ""
        self.topics: dict[str, tuple[str, float]] = {}
        """The topics that are paused: why, and until when."""

    @property
    def until(self) -> float:
        """When the lane's pause ends (event loop's time); 0 where there is none."""
        return self._until

    @property
    def is_paused(self) -> bool:
        return self.is_misconfigured or self._clock() < self._until

    def room(self) -> int | None:
        """How many attempts may be made now; None is no limit."""
        if self._until <= 0:
            return None
        if self._clock() < self._until:
            return 0
        if self.is_misconfigured:
            return 0 if self._probing else 1
        self._until = 0.0
        return None

    def sent(self) -> None:
        self._probing = self.is_misconfigured or self._until > 0

    def ended(self) -> None:
        """An attempt has come back, or was not sent after all."""
        self._probing = False

    def topic_is_paused(self, topic: str) -> bool:
        paused = self.topics.get(topic)
        return paused is not None and self._clock() < paused[1]

    def misconfigured(self, reason: str, topic: str | None) -> None:
        """The operator must act. One topic, or the whole lane: paused, tried again after a growing pause."""
        now = self._clock()
        if topic is not None:
            if topic not in self.topics:
                log.error("topic misconfigured", lane=self._lane, topic=topic, reason=reason)
            if len(self.topics) < _MOST_TOPICS or topic in self.topics:
                self.topics[topic] = (reason, now + MISCONFIGURED.first_s)
            return
        if self.is_misconfigured and now < self._until:
            return  # sent before it paused
        if not self.is_misconfigured:
            log.error("lane paused: misconfigured", lane=self._lane, reason=reason)
        self.is_misconfigured = True
        self.reason = reason
        self._until = now + delay_s(MISCONFIGURED, self._count, 0.0)
        self._count += 1
        self._probing = False

    def pause(self, seconds: float, reason: str) -> None:
        """The provider asked for a pause of the whole lane."""
        until = self._clock() + seconds
        if until > self._until:
            log.warning("lane pauses", lane=self._lane, for_s=round(seconds, 1), reason=reason)
            self._until = until
            self.reason = reason

    def delivered(self, topic: str) -> bool:
        """A push of this topic was delivered; whether the lane was misconfigured, which it no longer is."""
        was_misconfigured = self.is_misconfigured
        if was_misconfigured:
            log.info("lane resumes", lane=self._lane)
            self.end()
        self.topics.pop(topic, None)
        return was_misconfigured

    def end(self) -> None:
        """What was misconfigured has been mended."""
        self.is_misconfigured = self._probing = False
        self._until = 0.0
        self._count = 0
        self.reason = ""
        self.topics.clear()
