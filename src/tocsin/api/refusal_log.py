"""Tells the log what the HTTP server has refused, closed or cut by itself: one line a minute, with counts.

Whoever sends nonsense must not be able to fill the log with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from tocsin.api.refusals import Refusal

log = structlog.get_logger(__name__)

_EVERY_S: Final = 60.0


class RefusalLog:
    """Counts, and writes a line at the next `report`, but no more than one a minute. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: Counter[Refusal] = Counter()
        self._reported: float | None = None

    def count(self, refusal: Refusal) -> None:
        self._counts[refusal] += 1

    def report(self, *, last: bool = False) -> None:
        """To be called about once a second, and a last time."""
        now = self._clock()
        if not self._counts or (not last and self._reported is not None and now < self._reported + _EVERY_S):
            return
        by_reason = {refusal.value: count for refusal, count in sorted(self._counts.items())}
        log.warning("requests were refused before they were read", count=self._counts.total(), reasons=by_reason)
        self._counts.clear()
        self._reported = now
