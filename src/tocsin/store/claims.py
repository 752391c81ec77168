"""What every claim has in common: nothing is given out that could not be settled, nor to a caller that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from tocsin.store.clock import ClockWatch
from tocsin.store.leases import Leases
from tocsin.store.records import Item


class Claims:
    def __init__(self, leases: Leases, clock: ClockWatch) -> None:
        self._clock = clock
        self._leases = leases
        self.set_back_ms = 0
        """By how much the wall clock was set back, until the due times have been put right."""
        self.something = asyncio.Event()
        """Set when there may be something to claim."""

    async def prepare(self) -> None:
        """Before something is given out: what cannot be settled would be delivered, and delivered again.

        Raises:
            StoreUnavailable: the store cannot write.
        """
        await self.can_settle()
        self._leases.end_overdue()
        self.look_at_clock()

    def look_at_clock(self) -> None:
        """At every claim: a clock that was set forward and back between two looks would go unnoticed. Also before what
        is due is told: nothing may be claimed for long."""
        self.set_back_ms += self._clock.set_back_ms()

    async def move_with_the_clock(self, bring_forward: Callable[[int], Awaitable[None]]) -> None:
        """Put the due times right, where the clock was set back; those that could not be are next time."""
        by_ms, self.set_back_ms = self.set_back_ms, 0
        if by_ms:
            try:
                await bring_forward(by_ms)
            except BaseException:
                self.set_back_ms += by_ms
                raise

    async def can_settle(self) -> None:
        """Each store's own. Raises StoreUnavailable where what is given out now could not be settled."""
        raise NotImplementedError

    async def to_the_end(self, claim: Coroutine[Any, Any, list[Item]]) -> list[Item]:
        """Run a claim; what was claimed for a caller that is gone meanwhile is released."""
        task = asyncio.ensure_future(claim)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._release_claimed)
            raise

    def release(self, items: Sequence[Item]) -> None:
        self._leases.release(items)
        self.something.set()

    def _release_claimed(self, claim: asyncio.Future[list[Item]]) -> None:
        if not claim.cancelled() and claim.exception() is None:
            self.release(claim.result())
