"""How fast the backlog drains, and so when a producer that found it full should try again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

_WINDOW_S: Final = 10.0
_RETRY_AFTER_S: Final = (1, 300)


class Pace:
    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._settled: deque[tuple[float, int]] = deque()

    def settled(self, events: int) -> None:
        now = self._monotonic()
        self._settled.append((now, events))
        while self._settled[0][0] < now - _WINDOW_S:
            self._settled.popleft()

    def time_for_s(self, events: float) -> int:
        """An honest Retry-After: how long the last seconds' pace needs for so many."""
        now = self._monotonic()
        recent = sum(count for at, count in self._settled if at > now - _WINDOW_S)
        least, most = _RETRY_AFTER_S
        if not recent:
            return most
        return max(least, min(most, round(events / (recent / _WINDOW_S))))
