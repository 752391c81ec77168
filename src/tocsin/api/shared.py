"""Keeps Litestar from copying what must stay one."""

from __future__ import annotations

from typing import Self


class Shared:
    """Litestar deep-copies a router with all that its handlers hold; the store and the dispatcher must not be."""

    def __deepcopy__(self, memo: object) -> Self:
        return self
