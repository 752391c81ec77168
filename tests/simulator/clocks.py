"""The clocks of a simulation: the loop's time, and a wall clock that can be set."""

from __future__ import annotations

import asyncio
from typing import Final

_WALL_AT_ZERO_S: Final = 1_800_000_000.0


class Clocks:
    """One wall clock for tocsin and for the provider: a step moves both."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.offset_s = 0.0

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        """Unix seconds."""
        return _WALL_AT_ZERO_S + self._loop.time() + self.offset_s

    def now_ms(self) -> int:
        return int(self.wall() * 1000)
