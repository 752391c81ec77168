"""More comes in than goes out: the backlog has a bound, and nothing beyond it is promised."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.system.house import House, eventually


@pytest_asyncio.fixture
async def small(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path, {"store": {"max_backlog_events": 500}})
    try:
        yield await house.open()
    finally:
        house.close()


async def test_beyond_its_bound_the_backlog_takes_nothing_and_takes_again_by_itself_once_it_drains(
    small: House,
) -> None:
    user = await small.user()
    await small.faults({"status": 503, "headers": {"retry-after": "1"}})
    taken = [event for _ in range(5) for event in await small.hand_in(user, 100)]
    refused = small.events(user, 100)
    for count in (1, 100):
        answer = await small.offer(refused[:count])
        assert answer.status == 503, answer
        assert 1 <= int(answer.headers["retry-after"]) <= 300
    for event in refused:
        assert (await small.get(f"/api/events/{event.event_id}")).status == 404
    await small.faults()
    await small.all_arrive(taken)
    later = small.events(user, 100)

    async def takes_again() -> bool:
        return (await small.offer(later)).status == 202

    await eventually(takes_again, 5, small.explain)
    await small.all_arrive(later)
    assert not {event.marker for event in refused} & small.arrived().keys()
