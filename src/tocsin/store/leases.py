"""Who owns which item, and until when, within one process. In memory: nobody else delivers what it holds
(`docs/decisions/001`).

A lease ends by being taken back, which is when its item may be offered again: an owner that is late, but before anyone
else was offered the item, still settles it. Lease numbers are never used twice, so a late settlement finds none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar, cast

from msgspec.structs import replace

from tocsin.store.ports import LostItems
from tocsin.store.records import Handle, Item, Parked, Settlement

_MOST_STEPS: Final = 100


class Lease(Handle, kw_only=True, eq=False, gc=False):
    """What a store knows an item by, and its lease. Each store's own kind adds where the item is."""

    number: int = 0
    """0 before it is granted."""
    commit: asyncio.Future[None] | None = None
    """The commit that settles it, on its way or done."""


L = TypeVar("L", bound=Lease)


def leases_of(items: Sequence[Item], kind: type[L]) -> list[L]:
    """The handles of a store's own items, which are of its own kind."""
    return cast(list[L], [item.handle for item in items])


def _moved(parked: Parked, steps_ms: Sequence[int], since_ms: int) -> Parked:
    """`since_ms`: the earliest time, by the clock as it is, at which the due time was worked out."""
    due_ms = parked.due_ms
    for by_ms in steps_ms:
        if due_ms >= since_ms + by_ms:
            due_ms -= by_ms
    return replace(parked, due_ms=due_ms)


class Leases:
    """Leases of one length, so the oldest ends first."""

    def __init__(self, lease_s: float, monotonic: Callable[[], float]) -> None:
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._held: dict[int, Item] = {}
        self._next = 1
        self._to_renew = False
        self._steps: list[tuple[int, int]] = []
        """When the wall clock was set back: the number of the first lease after it, and by how many milliseconds."""
        self._lost: LostItems | None = None
        self.again: tuple[deque[Item], deque[Item]] = (deque(), deque())
        """What was given back, to be offered again: the others, the urgent."""

    def when_lost(self, lost: LostItems) -> None:
        self._lost = lost

    def grant(self, items: list[Item]) -> list[Item]:
        """Give every item a lease of its own."""
        ends, held, number = self._monotonic() + self._lease_s, self._held, self._next
        for item, lease in zip(items, leases_of(items, Lease), strict=True):
            lease.number = number
            item.deadline = ends
            held[number] = item
            number += 1
        self._next = number
        return items

    def extend(self, items: Sequence[Item]) -> None:
        """Those that are held are held a whole lease from now."""
        ends = self._monotonic() + self._lease_s
        for item, lease in zip(items, leases_of(items, Lease), strict=True):
            # Taken out and put in again: the oldest comes first.
            if self._held.pop(lease.number, None) is not None:
                item.deadline = ends
                self._held[lease.number] = item

    def end(self, leases: Sequence[Lease]) -> list[bool]:
        """Of each, whether it was held until now."""
        pop = self._held.pop
        return [pop(lease.number, None) is not None for lease in leases]

    def not_settled(self, items: Sequence[Item]) -> None:
        """Settling failed: the leases go on, from now, as their owner is evidently alive."""
        ends = self._monotonic() + self._lease_s
        for item, lease in zip(items, leases_of(items, Lease), strict=True):
            lease.commit = None
            item.deadline = ends
            self._held[lease.number] = item

    def release(self, items: Sequence[Item]) -> None:
        for item, lease in zip(items, leases_of(items, Lease), strict=True):
            if self._held.pop(lease.number, None) is not None:
                self._offer_again(item, lease)

    def end_overdue(self) -> None:
        """Take back what was held for too long, and tell its owner."""
        if self._to_renew:
            self._renew()
        now, lost = self._monotonic(), []
        while self._held:
            number, item = next(iter(self._held.items()))
            if item.deadline is None or item.deadline > now:
                break
            del self._held[number]
            lost.append(item)
        for item, lease in zip(lost, leases_of(lost, Lease), strict=True):
            self._offer_again(item, lease)
        if lost and self._lost is not None:
            self._lost(lost)

    def lose(self, is_lost: Callable[[Lease], bool]) -> None:
        """Somebody else owns these from now on: they are neither held nor offered again, and their owner is told."""
        lost = [item for item, lease in self._with_leases(self._held.values()) if is_lost(lease)]
        for lease in leases_of(lost, Lease):
            del self._held[lease.number]
        for again in self.again:
            kept = [item for item, lease in self._with_leases(again) if not is_lost(lease)]
            again.clear()
            again.extend(kept)
        if lost and self._lost is not None:
            self._lost(lost)

    def all(self) -> Iterator[Lease]:
        """The leases of what is held, and of what is to be offered again."""
        for items in (self._held.values(), *self.again):
            yield from (lease for _, lease in self._with_leases(items))

    def held_up(self, wait_s: float) -> None:
        """A write has waited for so long. A disk that stalls keeps owners from settling what they have delivered: it
        would be offered, and delivered, again."""
        if wait_s > self._lease_s / 4:
            self.stand_still()

    def stand_still(self) -> None:
        """The store cannot write, or not in time, so nobody can settle: what is held stays held, a whole lease from
        when it can."""
        self._to_renew = True

    def clock_set_back(self, by_ms: int) -> None:
        """The wall clock was set back, and what is parked by now is moved with it."""
        self._steps = [*self._steps[-_MOST_STEPS + 1 :], (self._next, by_ms)]

    def as_meant(self, settlements: Sequence[Settlement], now_ms: int) -> Sequence[Settlement]:
        """Settlements of leases that may be older than a step of the wall clock, with their due times as they were
        meant: those from before the step are moved with it.

        Due times are told apart by being later than whatever was worked out after the step can be, unless it waits as
        long as the step.
        """
        if not self._steps:
            return settlements
        now = self._monotonic()
        moved: list[Settlement] = []
        for settlement, lease in zip(settlements, leases_of([one.item for one in settlements], Lease), strict=True):
            steps = [by_ms for first, by_ms in self._steps if lease.number < first]
            if steps and settlement.parked:
                deadline = settlement.item.deadline
                held_ms = 0 if deadline is None else int((now - deadline + self._lease_s) * 1000)
                parked = [_moved(one, steps, now_ms - held_ms) for one in settlement.parked]
                settlement = Settlement(settlement.item, settlement.attempts, parked)
            moved.append(settlement)
        return moved

    @staticmethod
    def _with_leases(items: Iterable[Item]) -> Iterator[tuple[Item, Lease]]:
        return ((item, cast(Lease, item.handle)) for item in items)

    def _renew(self) -> None:
        self._to_renew = False
        ends = self._monotonic() + self._lease_s
        for item in self._held.values():
            item.deadline = ends

    def _offer_again(self, item: Item, lease: Lease) -> None:
        # A copy is the same work under a lease to come: whoever holds the old item cannot settle the new one.
        again = replace(lease, number=0, commit=None)
        copy = Item(item.event, again, item.targets, item.lane, item.tries, item.round)
        self.again[item.event.urgent].append(copy)
