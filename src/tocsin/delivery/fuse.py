"""An application's fuse: when too many of its tokens die at once, it is not the tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_WINDOW_S: Final = 60.0
_ATTEMPTS: Final = 200
_DEAD: Final = 0.2


class Fuse:
    """More than a fifth of many attempts dead within a minute: something is wrong, and it is not the tokens."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = 0.0
        self._attempts = 0
        self._dead = 0
        self.blown = False
        self.holding = False
        """Whether tokens went into quarantine since it blew; once none is left there, the operator has decided."""

    def count(self, attempts: int, dead: int) -> bool:
        """Count attempts; whether the fuse blew just now."""
        now = self._clock()
        if now - self._started > _WINDOW_S:
            self._started, self._attempts, self._dead = now, 0, 0
        self._attempts += attempts
        self._dead += dead
        if self.blown or self._attempts < _ATTEMPTS or self._dead <= self._attempts * _DEAD:
            return False
        self.blown = True
        return True

    def reset(self) -> None:
        self._started = self._attempts = self._dead = 0
        self.blown = self.holding = False
