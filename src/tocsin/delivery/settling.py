"""Brings to the store what deliveries came to: dead tokens, what was learned, and the items that are finished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from tocsin.delivery.dead_tokens import DeadTokens, Removed
from tocsin.delivery.learning import Learning
from tocsin.delivery.metrics import DeliveryMetrics
from tocsin.delivery.open_items import OpenItem
from tocsin.delivery.tracing import DeliveryTraces
from tocsin.store.ports import EventQueue, WriteFailure
from tocsin.store.records import Item, Result

log = structlog.get_logger(__name__)

_ITEMS_AT_ONCE: Final = 2000
_MOST_UNSETTLED: Final = 8_000
_MOST_UNSETTLED_BYTES: Final = 32 * 1024 * 1024
_RETRY_S: Final = 0.5
_SAMPLED: Final = 16
"""Of so many items that are settled together, the latency of one is looked at."""


class Settling:
    """Holds every item from when it is opened until it is settled."""

    def __init__(
        self,
        queue: EventQueue,
        dead_tokens: DeadTokens,
        learning: Learning,
        metrics: DeliveryMetrics,
        room: asyncio.Event,
        traces: DeliveryTraces | None = None,
    ) -> None:
        self._queue = queue
        self._dead_tokens = dead_tokens
        self._learning = learning
        self._metrics = metrics
        self._traces = traces
        self._room = room
        """Set when items were settled: there may be room to claim more."""
        self._open: set[OpenItem] = set()
        self._finished: list[OpenItem] = []
        self._finished_bytes = 0
        """Their content. That of items which are not finished is bounded by the lanes."""
        self.something = asyncio.Event()
        """Set when there is something to settle."""

    def opened(self, items: list[OpenItem]) -> None:
        self._open.update(items)

    def finished(self, item: OpenItem) -> None:
        """None of its deliveries is out any more."""
        self._finished.append(item)
        self._finished_bytes += item.size_bytes
        if len(self._finished) == 1:  # else it is set, or a turn is under way that sets it
            self.something.set()

    def has_too_much(self) -> bool:
        return len(self._finished) > _MOST_UNSETTLED or self._finished_bytes > _MOST_UNSETTLED_BYTES

    def has_nothing(self) -> bool:
        return not self._finished and not self._dead_tokens

    def lost(self, items: list[Item]) -> None:
        """Ownership of these has ended: nothing more of them is sent."""
        lost = set(items)
        for open_item in self._open:
            if open_item.item in lost:
                open_item.lose()

    async def extend(self, until: float) -> None:
        """Keep what would be lost before `until` (event loop's time), so that its attempts end and are settled: else it
        would be delivered twice. Once for each item: what is still not settled then is given up."""
        ending = [
            item
            for item in self._open
            if item.item.deadline is not None and item.item.deadline < until and not item.extended
        ]
        for item in ending:
            item.extended = True
        if ending:
            await self._queue.extend([item.item for item in ending])

    async def run(self, removed: Removed, until: Callable[[], bool]) -> None:
        """Settle whenever there is something, until `until` says so. `removed` is told of dead tokens."""
        while not until():
            await self.something.wait()
            self.something.clear()
            try:
                await self._settle(removed)
            except WriteFailure:
                self.something.set()
                await asyncio.sleep(_RETRY_S)

    async def _settle(self, removed: Removed) -> None:
        """One turn: dead tokens are removed, what was learned is noted, items are settled. What fails is kept for the
        next turn; where it is not known whether it succeeded, it is repeated, which the store takes for the same."""
        if self._dead_tokens:
            await self._dead_tokens.remove(removed)
        await self._learning.write_addresses()
        if self._finished:
            batch = self._finished[:_ITEMS_AT_ONCE]
            began_ms = 0 if self._traces is None else self._traces.now_ms()
            settled = await self._queue.settle([item.settlement() for item in batch])
            del self._finished[: len(batch)]
            self._open.difference_update(batch)
            self._finished_bytes -= sum([item.size_bytes for item in batch])
            self._metrics.settled(len(batch))
            sample = batch[::_SAMPLED]
            if self._traces is not None:
                self._traces.settled(batch, began_ms)
                # An exemplar is of a delivery that was counted.
                sample += [item for at, item in enumerate(batch) if at % _SAMPLED and item.trace is not None]
            self._metrics.took(_latencies(sample))
            if lost := settled.count(False):
                self._metrics.lost(lost)
                log.warning("settled too late: ownership had ended", items=lost)
        if self._finished or self._dead_tokens:
            self.something.set()
        self._room.set()


def _latencies(items: Sequence[OpenItem]) -> list[tuple[str, int]]:
    """The lane of each event's last answer, and the milliseconds from the event's acceptance, where that answer was the
    provider's acceptance."""
    return [
        (last.lane, last.at_ms - item.item.event.accepted_ms)
        for item in items
        if item.attempts and (last := item.attempts[-1]).result == Result.DELIVERED
    ]
