"""Settles each item once, for who holds it: what is settled again waits for the commit that is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import compress

from tocsin.store.leases import Lease, Leases, leases_of
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Settlement

Record = Callable[[Sequence[Settlement], int], Awaitable[None]]
"""Makes settlements durable, all or none, at the store's time (Unix milliseconds)."""


class Settling:
    def __init__(self, leases: Leases, now_ms: Callable[[], int], record: Record) -> None:
        self._leases = leases
        self._now_ms = now_ms
        self._record = record

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """See `ports.EventQueue.settle`."""
        leases = leases_of([settlement.item for settlement in settlements], Lease)
        held = self._leases.end(leases)
        to_record, own, earlier = settlements, leases, set[asyncio.Future[None]]()
        if not all(held):
            to_record = list(compress(settlements, held))
            own = list(compress(leases, held))
            # Who settles again while the first commit is on its way waits for the same.
            earlier = {lease.commit for lease in leases if lease.commit is not None}
        if to_record:
            commit = asyncio.ensure_future(self._commit(to_record))
            for lease in own:
                lease.commit = commit
            # The commit goes on without a caller that has given up: what was delivered is on record.
            await asyncio.shield(commit)
        for commit_before in earlier:
            await asyncio.shield(commit_before)
        return [lease.commit is not None for lease in leases]

    async def _commit(self, settlements: Sequence[Settlement]) -> None:
        now_ms = self._now_ms()
        settlements = self._leases.as_meant(settlements, now_ms)
        try:
            await self._record(settlements, now_ms)
        except BaseException as error:
            self._leases.not_settled([settlement.item for settlement in settlements])
            if isinstance(error, StoreUnavailable):
                self._leases.stand_still()
            raise
