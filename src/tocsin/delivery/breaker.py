"""A lane's breaker: counts failures, and says when there are so many that the provider is to be left alone."""

from __future__ import annotations

from collections import deque
from typing import Final

_CONSECUTIVE_FAILURES: Final = 5
_RATE_ATTEMPTS: Final = 20
_RATE_FAILURES: Final = 0.5


class Breaker:
    """Opens after five failures in a row, or when half of the last twenty attempts failed."""

    def __init__(self) -> None:
        self.consecutive = 0
        self._recent: deque[bool] = deque(maxlen=_RATE_ATTEMPTS)

    def healthy(self, attempts: int) -> None:
        """So many attempts were answered."""
        self.consecutive = 0
        if self._recent:
            self._recent.extend([True] * min(attempts, _RATE_ATTEMPTS))

    def failure(self) -> bool:
        """Count one failure; whether the breaker opens by it."""
        self.consecutive += 1
        self._recent.append(False)
        return self.consecutive >= _CONSECUTIVE_FAILURES or (
            len(self._recent) == _RATE_ATTEMPTS and self._recent.count(False) >= _RATE_ATTEMPTS * _RATE_FAILURES
        )

    def close(self) -> None:
        """Forget what was counted."""
        self.consecutive = 0
        self._recent.clear()
