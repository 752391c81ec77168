"""More events come than can be delivered: the backlog has a bound, and nothing beyond it is accepted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.system.running_system import RunningSystem, eventually


@pytest_asyncio.fixture
async def small(tmp_path: Path) -> AsyncIterator[RunningSystem]:
    system = RunningSystem(tmp_path, {"store": {"max_backlog_events": 500}})
    try:
        yield await system.open()
    finally:
        system.close()


async def test_beyond_its_bound_the_backlog_takes_nothing_and_takes_again_by_itself_once_it_drains(
    small: RunningSystem,
) -> None:
    user = await small.user()
    await small.faults({"status": 503, "headers": {"retry-after": "1"}})
    taken = [event for _ in range(5) for event in await small.send(user, 100)]
    refused = small.events(user, 100)
    for count in (1, 100):
        response = await small.post(refused[:count])
        assert response.status == 503, response
        assert 1 <= int(response.headers["retry-after"]) <= 300
    for event in refused:
        assert (await small.get(f"/api/events/{event.event_id}")).status == 404
    await small.faults()
    await small.all_received(taken)
    later = small.events(user, 100)

    async def takes_again() -> bool:
        return (await small.post(later)).status == 202

    await eventually(takes_again, 5, small.explain)
    await small.all_received(later)
    assert not {event.marker for event in refused} & small.received().keys()
