"""Clocks that stand still until they are told to go."""

from __future__ import annotations


class Clocks:
    """The wall clock (Unix seconds) and the monotonic one (seconds)."""

    def __init__(self) -> None:
        self.wall_s = 1_800_000_000.0
        self.monotonic_s = 1000.0

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    @property
    def now_ms(self) -> int:
        return int(self.wall_s * 1000)

    def pass_time(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def set_wall_clock(self, *, by_s: float) -> None:
        self.wall_s += by_s
