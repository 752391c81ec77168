"""Takes items from the store: as many as there is room for, and no oftener than something can have come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tocsin.delivery.lane_book import LaneBook
from tocsin.delivery.metrics import DeliveryMetrics
from tocsin.store.ports import EventQueue, Schedule
from tocsin.store.records import Item

CLAIM_ITEMS: Final = 500
_FEWEST_ITEMS: Final = 8
_DUE_DELIVERIES: Final = 8000
"""How many parked deliveries are claimed at a time, of all lanes together: each has its share."""
_LONGEST_IDLE_S: Final = 1.0
_SHORTEST_IDLE_S: Final = 0.005
_NO_ROOM_S: Final = 0.05


class Claiming:
    def __init__(
        self,
        queue: EventQueue,
        schedule: Schedule,
        lanes: LaneBook,
        metrics: DeliveryMetrics,
        now_ms: Callable[[], int],
        room: asyncio.Event,
    ) -> None:
        self._queue = queue
        self._schedule = schedule
        self._lanes = lanes
        self._metrics = metrics
        self._now_ms = now_ms
        self._room = room
        """Set when there may be room for more."""
        self._loop = asyncio.get_running_loop()
        self._most_items = CLAIM_ITEMS
        self._idle: asyncio.Task[Any] | None = None
        """The task that waits for something to claim."""
        self._nap: asyncio.Timeout | None = None

    async def claim(self) -> list[Item]:
        """What is new, and of each lane what is due, as far as the lane has room."""
        items = await self._queue.claim(self._most_items)
        self._most_items = min(CLAIM_ITEMS, self._most_items * 5 // 4)
        try:
            items += await self._claim_due()
        except BaseException:
            await self._queue.release(items)
            raise
        self._metrics.claimed(len(items))
        return items

    async def _claim_due(self) -> list[Item]:
        due = await self._schedule.due()
        if not due:
            return []
        now_ms = self._now_ms()
        rooms = {lane: self._lanes.room(lane) for lane, due_ms in due.items() if due_ms <= now_ms}
        only: dict[str, bool] = {}
        for lane in [lane for lane, room in rooms.items() if not room]:
            only[lane], rooms[lane] = self._lanes.room_for_the_fewer(lane)
        rooms = {lane: room for lane, room in rooms.items() if room}
        if not rooms:
            return []
        share = _DUE_DELIVERIES // len(rooms)
        # A lane that is full leaves no bytes; that is no reason to claim less for the rest.
        size_bytes = min([self._lanes.room_bytes(lane) for lane in rooms if lane not in only], default=0)
        wanted = {lane: max(1, min(room, share)) for lane, room in rooms.items()}
        return await self._schedule.claim_due(wanted, size_bytes, only)

    async def give_back(self, items: Sequence[Item], kept: int) -> None:
        """There is no room for these, only for `kept` of those that came with them: they are claimed again when there
        is, and fewer at a time until then."""
        self._most_items = max(_FEWEST_ITEMS, kept)
        await self._queue.release(items)

    async def wait(self) -> None:
        """Until there may be something to claim."""
        idle_s = self._idle_s(await self._schedule.due())
        self._idle = asyncio.current_task()
        try:
            async with asyncio.timeout(None) as self._nap:
                await self._queue.wait(idle_s)
        except TimeoutError:
            pass  # woken
        finally:
            self._idle = self._nap = None

    def wake(self) -> None:
        """A lane has room again: what is due of it can be claimed now."""
        nap, self._nap = self._nap, None  # once: it cannot be ended twice
        if nap is not None:
            nap.reschedule(self._loop.time())

    def stop(self) -> None:
        """Nothing will be claimed any more: who only waits for it is cancelled."""
        if self._idle is not None:
            self._idle.cancel()

    async def wait_for_room(self) -> None:
        """Until something was sent or settled, or a lane has become slow."""
        self._room.clear()
        try:
            async with asyncio.timeout(_NO_ROOM_S):
                await self._room.wait()
        except TimeoutError:
            pass

    def _idle_s(self, due: Mapping[str, int]) -> float:
        """How long nothing can come by itself: until something parked is due, or its lane may try again."""
        wait_s, now_s = _LONGEST_IDLE_S, self._now_ms() / 1000
        for lane, due_ms in due.items():
            if self._lanes.room(lane):
                wait_s = min(wait_s, due_ms / 1000 - now_s)
            elif (chance := self._lanes.next_chance(lane)) is not None:
                wait_s = min(wait_s, chance - self._loop.time())
        return max(_SHORTEST_IDLE_S, wait_s)
