"""The leases of this store's items: where each is in the file, and many granted in one go."""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.domain.events import Event
from tocsin.store.leases import Lease, Leases
from tocsin.store.records import Item


class FileLease(Lease, eq=False, gc=False):
    """What this store knows an item by: the event's number, the parked row that it is, and its lease."""

    seq: int
    parked_id: int | None = None


class FileLeases(Leases):
    """See `store.leases.Leases`."""

    def grant_fresh(self, found: Sequence[tuple[int, Event]]) -> list[Item]:
        """Items of events that nobody has tried yet, each with a lease of its own: made in one go, one per event."""
        ends, held, number, items = self._monotonic() + self._lease_s, self._held, self._next, []
        for seq, event in found:
            item = Item(event, FileLease(seq, None, number=number), None, None, 0, 0, ends)
            held[number] = item
            items.append(item)
            number += 1
        self._next = number
        return items
