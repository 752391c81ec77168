"""Notes in the registry which topics are right: that a device was reached on each, about once an hour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tocsin.delivery.lane_book import LaneBook
from tocsin.store.ports import Registry

_NOTED_EVERY_S: Final = 3600.0


class TopicNotes:
    """`clock` is the event loop's (monotonic seconds)."""

    def __init__(self, registry: Registry, lanes: LaneBook, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._lanes = lanes
        self._clock = clock
        self._again_at = clock() + _NOTED_EVERY_S

    async def write(self) -> None:
        """Note the topics that were reached for the first time since the start, or in this hour.

        Raises:
            WriteFailure: they are kept for the next time.
        """
        now = self._clock()
        if now >= self._again_at:
            self._again_at = now + _NOTED_EVERY_S
            for lane in self._lanes:
                lane.evidence.lately.clear()
        if reached := self._lanes.topics_reached():
            await self._registry.note_topics(reached)
            for lane in self._lanes:
                lane.evidence.noted(reached)
