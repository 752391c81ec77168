"""Waiting for something to claim, and being woken."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from tocsin.delivery.claiming import Claiming


class NothingToClaim:
    async def due(self) -> Mapping[str, int]:
        return {}

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def test_who_waits_is_woken_once_however_many_lanes_have_room_at_the_same_time() -> None:
    nothing = cast(Any, NothingToClaim())
    lanes, metrics = cast(Any, SimpleNamespace()), cast(Any, SimpleNamespace())
    claiming = Claiming(nothing, nothing, lanes, metrics, lambda: 0, asyncio.Event())
    claiming.wake()
    waiting = asyncio.create_task(claiming.wait())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    for _ in range(3):
        claiming.wake()
        claiming.wake()
        await asyncio.sleep(0)
    async with asyncio.timeout(0.5):
        await waiting
