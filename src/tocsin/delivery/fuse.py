"""An account's fuse: when too many of its tokens are declared dead at once, the fault is not the tokens'."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

_WINDOW_S: Final = 60.0
_ATTEMPTS: Final = 200
_DEAD: Final = 0.2


class Counted(Struct, frozen=True):
    """What one node has counted lately."""

    age_s: float
    """When it began to count."""
    attempts: int
    dead: int


class Fuse:
    """It blows when more than a fifth of at least 200 attempts within a minute come back dead, on whichever nodes: then
    tokens are quarantined in place of being removed, until the operator has decided."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = 0.0
        self._attempts = 0
        self._dead = 0
        self._attempts_elsewhere = self._dead_elsewhere = 0
        self._told_at = 0.0
        self._reset_at = -_WINDOW_S
        self.blown = False
        self._blown_at = 0.0
        self.holding = False
        """Whether tokens went into quarantine since it blew; once none is left there, the operator has decided."""
        self.undecided = 0
        """Dead tokens of which the registry has not said yet what has become of them."""

    def count(self, attempts: int, dead: int) -> bool:
        """Count attempts; whether the fuse blew just now."""
        now = self._clock()
        if now - self._started > _WINDOW_S:
            self._started, self._attempts, self._dead = now, 0, 0
        if now - self._told_at > _WINDOW_S:
            self._attempts_elsewhere = self._dead_elsewhere = 0
        self._attempts += attempts
        self._dead += dead
        return self._judge(self._attempts, self._dead, now)

    @property
    def counted(self) -> Counted | None:
        """For the other nodes; None where no token has died here within the minute."""
        age_s = self._clock() - self._started
        return Counted(age_s, self._attempts, self._dead) if self._dead and age_s <= _WINDOW_S else None

    def count_elsewhere(self, counts: Iterable[Counted]) -> bool:
        """What each of the other nodes has counted; whether the fuse blew just now."""
        self._told_at = now = self._clock()
        # What they counted before the operator decided has been decided, too.
        most_s = min(_WINDOW_S, now - self._reset_at)
        lately = [count for count in counts if count.age_s <= most_s]
        self._attempts_elsewhere = sum(count.attempts for count in lately)
        self._dead_elsewhere = sum(count.dead for count in lately)
        own = self.counted
        return own is not None and self._judge(own.attempts, own.dead, now)

    def _judge(self, attempts: int, dead: int, now: float) -> bool:
        attempts, dead = attempts + self._attempts_elsewhere, dead + self._dead_elsewhere
        if self.blown or attempts < _ATTEMPTS or dead <= attempts * _DEAD:
            return False
        self.blown, self._blown_at = True, now
        return True

    def hold(self) -> None:
        """Tokens are in quarantine (since before a restart, perhaps): blown until the operator has decided."""
        if not self.blown:
            self.blown, self._blown_at = True, self._clock()
        self.holding = True

    def may_be_reset(self) -> bool:
        """Asked when nothing is in quarantine: the operator has decided, or there was nothing left to hold back. While
        some are still to go there it is neither: reset, it would let them be removed."""
        return self.blown and not self.undecided and (self.holding or self._clock() - self._blown_at > _WINDOW_S)

    def reset(self) -> None:
        self._started = self._attempts = self._dead = self._attempts_elsewhere = self._dead_elsewhere = 0
        self._reset_at = self._clock()
        self.blown = self.holding = False
