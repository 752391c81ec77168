"""The users who were erased a short time ago: what this node has claimed of their events may be gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tocsin.domain.events import UserId
from tocsin.store.postgres.places import LogLease
from tocsin.store.records import Settlement

_REMEMBERED_S: Final = 3600.0
"""Longer than anything is out."""


class Erasures:
    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until: dict[UserId, float] = {}

    def add(self, owner: UserId) -> None:
        self._until[owner] = self._monotonic() + _REMEMBERED_S

    def among(self, settlements: Sequence[Settlement], leases: Sequence[LogLease]) -> list[LogLease]:
        """The leases of those settlements whose event may be gone."""
        if not self._until:
            return []
        now = self._monotonic()
        self._until = {owner: until for owner, until in self._until.items() if until > now}
        return [
            lease
            for settlement, lease in zip(settlements, leases, strict=True)
            if settlement.item.event.owner in self._until
        ]
