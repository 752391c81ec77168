"""How much of a rate each party has used up, in memory and bounded.

Each party has a bucket of as many tokens as its rate allows in its period. The bucket fills evenly. It is kept as one
number, the time at which it is full again (the generic cell rate algorithm; ITU-T I.371, annex A).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from tocsin.store.records import Rate

MOST_PARTIES: Final = 100_000
_ROUNDING_S: Final = 1e-6


class Buckets:
    """The buckets of parties of one kind. A party that is not remembered has a full one."""

    def __init__(self, clock: Callable[[], float], most: int = MOST_PARTIES) -> None:
        self._clock = clock
        self._most = most
        self._full_at: dict[Hashable, float] = {}

    def wait_s(self, party: Hashable, rate: Rate) -> float:
        """In how many seconds the party has a token; 0 where it has one now."""
        full_at = self._full_at.get(party)
        if full_at is None:
            return 0.0
        wait_s = full_at - self._clock() - rate.per_s + rate.per_s / rate.count
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def charge(self, party: Hashable, rate: Rate, tokens: int = 1) -> None:
        """Takes the tokens, also those that the party does not have: it then waits until they are paid for. A negative
        number gives tokens back."""
        now = self._clock()
        full_at = self._full_at.get(party)
        if full_at is None and len(self._full_at) >= self._most:
            self._make_room(now)
        if full_at is None or full_at < now:
            full_at = now
        self._full_at[party] = full_at + tokens * rate.per_s / rate.count

    def take(self, party: Hashable, rate: Rate, tokens: int = 1) -> float:
        """Takes the tokens and returns 0 where the party has at least one, else how many seconds it must wait."""
        wait_s = self.wait_s(party, rate)
        if not wait_s:
            self.charge(party, rate, tokens)
        return wait_s

    def _make_room(self, now: float) -> None:
        """Forgets the full buckets; where they are too few, also the half that was first used the longest ago."""
        left = [(party, full_at) for party, full_at in self._full_at.items() if full_at > now]
        if len(left) > self._most // 2:
            left = left[-(self._most // 2) :]
        self._full_at = dict(left)
