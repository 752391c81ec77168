"""Which ids of a growing table were not read yet, as the gaps between those that were."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

_NO_END: Final = 2**63 - 1


class Gaps:
    """Few, however many ids were read: ids follow each other, but for those whose transaction has not committed, or
    never does."""

    def __init__(self, above: int) -> None:
        """Nothing above this id was read."""
        self._above, self._below = [above], [_NO_END]

    def bounds(self) -> tuple[list[int], list[int]]:
        """Of each gap the id before it and the one behind it."""
        return list(self._above), list(self._below)

    def take(self, id: int) -> bool:
        """This id is read; False where it was before."""
        at = bisect_left(self._above, id) - 1
        if at < 0 or id >= self._below[at]:
            return False
        above, below = self._above[at], self._below[at]
        left = [(above, id)] if id - above > 1 else []
        right = [(id, below)] if below - id > 1 else []
        self._above[at : at + 1] = [one for one, _ in left + right]
        self._below[at : at + 1] = [one for _, one in left + right]
        return True

    def close(self, upto: int) -> None:
        """Nothing is awaited any more of the ids up to this one."""
        passed = bisect_left(self._below, upto + 2)
        del self._above[:passed], self._below[:passed]
        self._above[0] = max(self._above[0], upto)
