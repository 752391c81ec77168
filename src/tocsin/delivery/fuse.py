"""An account's fuse: when too many of its tokens are declared dead at once, the fault is not the tokens'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_WINDOW_S: Final = 60.0
_ATTEMPTS: Final = 200
_DEAD: Final = 0.2


class Fuse:
    """It blows when more than a fifth of at least 200 attempts within a minute come back dead: then tokens are
    quarantined in place of being removed, until the operator has decided."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = 0.0
        self._attempts = 0
        self._dead = 0
        self.blown = False
        self._blown_at = 0.0
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
        self.blown, self._blown_at = True, now
        return True

    def hold(self) -> None:
        """Tokens are in quarantine (since before a restart, perhaps): blown until the operator has decided."""
        if not self.blown:
            self.blown, self._blown_at = True, self._clock()
        self.holding = True

    def may_be_reset(self) -> bool:
        """Asked when nothing is in quarantine: the operator has decided, or there was nothing left to hold back."""
        return self.blown and (self.holding or self._clock() - self._blown_at > _WINDOW_S)

    def reset(self) -> None:
        self._started = self._attempts = self._dead = 0
        self.blown = self.holding = False
