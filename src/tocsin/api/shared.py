"""Prevents Litestar from copying what its handlers share."""

from __future__ import annotations

from typing import Self


class Shared:
    """Not copied. Litestar makes a deep copy of a router, with all that its handlers hold: the store, and delivery."""

    def __deepcopy__(self, memo: object) -> Self:
        return self
