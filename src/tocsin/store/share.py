"""Which share of a long action is done, told now and then: not after each of very many small parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_EVERY: Final = 100

Told = Callable[[int, int], None]
"""Told how many of how many are done, by whatever thread."""


class Share:
    """How many of `total` are done: none at first."""

    def __init__(self, total: int, told: Told | None) -> None:
        self._total = total
        self._told = told
        self._done = 0

    def more(self, count: int = 1) -> None:
        """So many more are done."""
        before, self._done = self._done, self._done + count
        if self._told is not None and (self._done // _EVERY > before // _EVERY or self._done == self._total):
            self._told(self._done, self._total)
