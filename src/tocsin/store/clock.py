"""Notices when the wall clock is set: what is parked for half a minute must not wait an hour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

TOLERATED_MS: Final = 2000
"""A smaller step is a correction (NTP), not a clock that was set."""


class ClockWatch:
    """Compares the wall clock with the monotonic one."""

    def __init__(self, wall_clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._offset_ms = self._measure()

    def set_back_ms(self) -> int:
        """How far the wall clock was set back since the last call; 0 where it was not, or forward."""
        return max(0, -self.set_by_ms())

    def set_by_ms(self) -> int:
        """How far the wall clock was set since the last call: forward, or back (below 0)."""
        before, self._offset_ms = self._offset_ms, self._measure()
        by = self._offset_ms - before
        return by if abs(by) > TOLERATED_MS else 0

    def _measure(self) -> int:
        return int((self._wall_clock() - self._monotonic()) * 1000)
