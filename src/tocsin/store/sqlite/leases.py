"""Who holds which item, and until when. In memory: the file belongs to one server process (see `queue.py`).

A lease ends by being taken back, which is when its item may be offered again: a holder that is late, but before
anyone else was offered the item, still settles it. Lease numbers are never used twice, so they fence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from tocsin.store.ports import Item


class Leases:
    """Leases of one length, so the oldest ends first."""

    def __init__(self, lease_s: float, monotonic: Callable[[], float]) -> None:
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._held: dict[int, tuple[Item, float]] = {}
        self._next = 1
        self._to_renew = False
        self.again: tuple[deque[Item], deque[Item]] = (deque(), deque())
        """What was given back, to be offered again: the bulk, the urgent."""

    def grant(self, items: list[Item]) -> list[Item]:
        """Give every item a lease of its own."""
        ends, held = self._monotonic() + self._lease_s, self._held
        for lease, item in enumerate(items, self._next):
            item.lease = lease
            held[lease] = (item, ends)
        self._next += len(items)
        return items

    def take(self, items: Sequence[Item]) -> list[bool]:
        """End leases, and say of each whether it still held."""
        held = self._held
        return [held.pop(item.lease, None) is not None for item in items]

    def put_back(self, items: Sequence[Item]) -> None:
        """The leases go on, from now: their holder is evidently alive, and could not settle."""
        ends = self._monotonic() + self._lease_s
        self._held.update((item.lease, (item, ends)) for item in items)

    def release(self, item: Item) -> None:
        if self._held.pop(item.lease, None) is not None:
            self._offer_again(item)

    def end(self) -> None:
        """Take back what was held for too long. A late settlement finds its lease gone."""
        if self._to_renew:
            self._renew()
        now = self._monotonic()
        while self._held:
            lease, (item, ends) = next(iter(self._held.items()))
            if ends > now:
                return
            del self._held[lease]
            self._offer_again(item)

    def hold_on(self) -> None:
        """The store cannot write, so nobody can settle: what is held stays held, a whole lease from when it can."""
        self._to_renew = True

    def _renew(self) -> None:
        self._to_renew = False
        ends = self._monotonic() + self._lease_s
        self._held = {lease: (item, ends) for lease, (item, _) in self._held.items()}

    def _offer_again(self, item: Item) -> None:
        # A copy is the same work under a lease to come: whoever holds the old item cannot settle the new one.
        copy = Item(item.event, item.seq, 0, item.parked_id, item.lane, item.targets, item.tries)
        self.again[item.event.urgent].append(copy)
