"""A lane's breaker: when a provider only fails, leave it alone for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

_CONSECUTIVE_FAILURES: Final = 5
_RATE_ATTEMPTS: Final = 20
_RATE_FAILURES: Final = 0.5
_OPEN_FIRST_S: Final = 1.0
_OPEN_CAP_S: Final = 60.0


class Breaker:
    """Closed, open for a growing pause, then half open: one probe decides."""

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self.consecutive = 0
        self._recent: deque[bool] = deque(maxlen=_RATE_ATTEMPTS)
        self._pauses = 0
        self.open_until = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        return self.open_until > 0.0

    def room(self) -> int | None:
        """How many attempts the breaker allows now; None is no limit."""
        if not self.is_open:
            return None
        return 0 if self._probing or self._clock() < self.open_until else 1

    def sent(self) -> None:
        if self.is_open:
            self._probing = True

    def unsent(self) -> None:
        """What was to be the probe was not sent: the next one may be it."""
        self._probing = False

    def healthy(self, attempts: int) -> None:
        self.consecutive = 0
        if self._pauses or self._recent:
            self._recent.extend([True] * min(attempts, _RATE_ATTEMPTS))
        if self.is_open:
            self.close()

    def close(self) -> None:
        self._pauses = 0
        self._recent.clear()
        self.consecutive = 0
        self.open_until = 0.0
        self._probing = False

    def failure(self) -> bool:
        """Count one failure; whether the breaker opened by it."""
        self.consecutive += 1
        self._recent.append(False)
        if self.is_open:
            if not self._probing:
                return False  # sent before it opened
        elif self.consecutive < _CONSECUTIVE_FAILURES and (
            len(self._recent) < _RATE_ATTEMPTS or self._recent.count(False) < _RATE_ATTEMPTS * _RATE_FAILURES
        ):
            return False
        self._probing = False
        pause_s = min(_OPEN_CAP_S, _OPEN_FIRST_S * 2.0**self._pauses) * (0.5 + 0.5 * self._random())
        self._pauses += 1
        self.open_until = self._clock() + pause_s
        return True
