"""Whether the store takes writes, as a source knows it: all its consumers stop where one of them has failed, and go on
when a write has succeeded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from tocsin.store.ports import Positions, WriteFailure

log = structlog.get_logger(__name__)

_AGAIN_S: Final = 1.0
_TRIED: Final = "tried whether it can be written"
"""Under this name the store has when that was tried last, in Unix milliseconds. It means nothing else."""


class Writable:
    """Begins with a store that takes writes."""

    def __init__(self, positions: Positions, now_ms: Callable[[], int]) -> None:
        self._positions = positions
        self._now_ms = now_ms
        self._told: list[Callable[[], None]] = []
        self._one_at_a_time = asyncio.Lock()
        self.now = True

    def when_failed(self, told: Callable[[], None]) -> Callable[[], None]:
        """Have `told` called whenever the store takes writes no more. Returns what ends that."""
        self._told.append(told)
        return lambda: self._told.remove(told)

    def failed(self) -> None:
        """A write has failed, for the store's sake."""
        if self.now:
            self.now = False
            for told in self._told:
                told()

    async def again(self, stop: asyncio.Event) -> None:
        """Returns when a write has succeeded, or at `stop`, which waits for no write that is under way."""
        while not (self.now or stop.is_set()):
            if not await _before(stop, self._try()):
                await _before(stop, asyncio.sleep(_AGAIN_S))

    async def _try(self) -> bool:
        """One write, committed as an event's is."""
        async with self._one_at_a_time:
            if not self.now:
                try:
                    await self._positions.set(_TRIED, self._now_ms())
                    self.now = True
                except WriteFailure as error:
                    log.debug("the store takes no writes yet", error=str(error))
            return self.now


async def _before(stop: asyncio.Event, done: Awaitable[bool | None]) -> bool | None:
    """What `done` returns; None where `stop` comes first."""
    doing, stopping = asyncio.ensure_future(done), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        for task in (doing, stopping):
            task.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)
