"""What there may be very much of, and is therefore counted now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

_EVERY_S: Final = 5.0
_SHARE: Final = 0.1
"""Of the time at most as much is spent with counting."""

T = TypeVar("T")


class Counted(Generic[T]):
    """The answer of `count`, some seconds old at most, or ten times as old as it takes to count."""

    def __init__(self, count: Callable[[], Awaitable[T]]) -> None:
        self._count = count
        self._last: T | None = None
        self._again_at = float("-inf")

    async def get(self) -> T:
        """Raises what `count` raises."""
        now = asyncio.get_running_loop().time
        if self._last is None or now() >= self._again_at:
            began = now()
            self._last = await self._count()
            self._again_at = max(began + _EVERY_S, now() + (now() - began) / _SHARE)
        return self._last
