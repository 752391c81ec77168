"""The clocks of a simulation: the loop's time, and a wall clock that can be set."""

from __future__ import annotations

import asyncio
from typing import Final

WALL_AT_ZERO_S: Final = 1_800_000_000.0


class Clocks:
    """The wall clocks of tocsin and of the providers."""

    def __init__(self, skew_s: float) -> None:
        """`skew_s`: by so much tocsin's is ahead of the providers'."""
        self._loop = asyncio.get_running_loop()
        self._skew_s = skew_s
        self.offset_s = 0.0
        """By so much both were set."""
        self.own_offset_s = 0.0
        """By so much tocsin's alone was set."""

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        """Tocsin's, Unix seconds."""
        return self.provider() + self._skew_s + self.own_offset_s

    def provider(self) -> float:
        """The providers', Unix seconds."""
        return WALL_AT_ZERO_S + self._loop.time() + self.offset_s

    def now_ms(self) -> int:
        """Tocsin's, Unix milliseconds."""
        return int(self.wall() * 1000)

    def provider_now_ms(self) -> int:
        return int(self.provider() * 1000)
