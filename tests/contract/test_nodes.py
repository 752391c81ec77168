"""How each node is doing, as it has published it itself."""

from __future__ import annotations

from msgspec.structs import replace
from tests.contract.support import make_event
from tests.support.clocks import Clocks

from tocsin.domain.nodes import NodeStatus
from tocsin.domain.routes import LaneState, LaneStatus
from tocsin.store.ports import Store


async def test_the_status_that_a_node_published_last_is_there(store: Store, clocks: Clocks) -> None:
    assert await store.nodes() == []
    lane = LaneStatus("fcm:main", LaneState.PAUSED, "why", 1, 2, {}, True, "fcm", "", "main")
    status = NodeStatus("host:1", "0.1", clocks.now_ms, ["a problem"], [lane])
    await store.publish(status)
    latest = replace(status, problems=[])
    await store.publish(latest)
    assert await store.nodes() == [latest]


async def test_a_store_without_failures_says_so_and_tells_its_time(store: Store, clocks: Clocks) -> None:
    assert store.failures() == []
    assert store.now_ms() == clocks.now_ms


async def test_a_store_knows_its_size_and_how_long_its_commits_took(store: Store, clocks: Clocks) -> None:
    before, counted = await store.size_bytes(), store.commits.count
    assert before > 0
    await store.queue.append([make_event(clocks) for _ in range(200)])
    assert store.commits.count > counted
    assert await store.size_bytes() >= before
