"""The store's time: the database's clock, as this node knows it since its last look."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

NOW_MS: Final = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
"""The database's clock, Unix milliseconds. The day is divided from them by whole numbers: a cast would round it up
after noon."""


class DatabaseClock:
    """Where two hosts compare times, both must have them from one clock. This one is asked at every heartbeat, and goes
    on with this host's monotonic clock in between."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        fixed: Callable[[], float] | None = None,
        host: Callable[[], float] = time.time,
    ) -> None:
        """`fixed`: a clock that counts instead, for tests; `host`: this host's, which counts until the first look. Both
        show Unix seconds."""
        self._monotonic = monotonic
        self._fixed = fixed
        self._offset_s = host() - monotonic()

    def wall(self) -> float:
        """Unix seconds."""
        return self._fixed() if self._fixed is not None else self._offset_s + self._monotonic()

    def now_ms(self) -> int:
        return int(self.wall() * 1000)

    def seen(self, database_s: float, asked_at: float) -> None:
        """The database's clock showed this at some time after `asked_at` (monotonic): no later than it is now."""
        self._offset_s = database_s - (asked_at + self._monotonic()) / 2
