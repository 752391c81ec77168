"""Takeovers in virtual time, on the model of the database: its clock can be set, and each moment be met."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final
from uuid import UUID

import pytest

from tests.simulator.loop import LIFE, VirtualLoop
from tests.simulator.model_store.database import ModelDatabase
from tests.simulator.model_store.way import SimulatedWay
from tests.simulator.nodes.node import MASTER_KEY
from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.master_keys import KeyText
from tocsin.store.ports import StoreUnavailable
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.options import FRESH_S, PostgresOptions
from tocsin.store.postgres.places import LOGS
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import Attempt, Item, Parked, Result, Settlement

HOUR_S: Final = 3600.0
STALLED: Final = "a stalled node"
_COMMIT_S: Final = 0.002


class Clock:
    """The database's. It can be set."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.offset_s = 1_800_000_000.0

    def wall(self) -> float:
        return self._loop.time() + self.offset_s


async def node(database: ModelDatabase, name: str) -> PostgresStore:
    store = await open_store(options(database, name), server=True)
    await store.start()
    return store


async def open_command(database: ModelDatabase) -> PostgresStore:
    return await open_store(options(database, "a command"))


def options(database: ModelDatabase, name: str) -> PostgresOptions:
    return PostgresOptions(
        url="postgresql://model/tocsin",
        max_events=1000,
        max_bytes=10**9,
        lease_s=30,
        keys=KeyText("the test's key", lambda: MASTER_KEY),
        search=False,
        monotonic=asyncio.get_running_loop().time,
        random=Random(name),
        dial=SimulatedWay(database, Random(name), 0.001).dial,
    )


def event(clock: Clock) -> Event:
    now_ms = int(clock.wall() * 1000)
    return Event(EventId(str(UUID(int=1))), UserId(str(UUID(int=2))), "fax_new", now_ms, now_ms + 60_000, b"{}")


def delivered(item: Item) -> Settlement:
    return Settlement(item, [Attempt(0, "fcm:a", "fcm:main", Result.DELIVERED, 200, "", "", None, 0, 1)], [])


def in_virtual_time(story: Callable[[], Awaitable[None]]) -> None:
    loop = VirtualLoop(Random(1))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(story())  # type: ignore[arg-type]


@pytest.mark.parametrize("by_s", [-HOUR_S, 0.0, HOUR_S])
def test_who_takes_logs_over_waits_until_their_holder_may_not_send_however_the_databases_clock_was_set(
    by_s: float,
) -> None:
    async def story() -> None:
        loop, clock = asyncio.get_running_loop(), Clock()
        database = ModelDatabase(clock.wall, lambda: _COMMIT_S)
        one = await node(database, "one")
        await one.beat()
        last_s = loop.time()
        await one.abandon()
        clock.offset_s += by_s
        await asyncio.sleep(0.1)
        other = await node(database, "other")
        assert len(other.ownership.held) == LOGS
        assert FRESH_S < loop.time() - last_s < 5
        await other.abandon()

    in_virtual_time(story)


@pytest.mark.parametrize("by_s", [-HOUR_S, 0.0])
def test_a_stalled_node_loses_its_logs_however_the_databases_clock_was_set(by_s: float) -> None:
    async def story() -> None:
        loop, clock = asyncio.get_running_loop(), Clock()
        assert isinstance(loop, VirtualLoop)
        database = ModelDatabase(clock.wall, lambda: _COMMIT_S)
        other = await node(database, "other")
        context = contextvars.copy_context()
        context.run(LIFE.set, STALLED)
        stalled = await loop.create_task(node(database, "one"), context=context)
        await asyncio.sleep(5)
        assert len(other.ownership.held) == LOGS // 2
        loop.suspend(STALLED)
        clock.offset_s += by_s
        await asyncio.sleep(15)
        assert len(other.ownership.held) == LOGS
        loop.resume(STALLED)
        await stalled.abandon()
        await other.abandon()

    in_virtual_time(story)


def test_a_node_settles_nothing_on_a_new_session_before_it_knows_which_logs_are_still_its_own() -> None:
    """Another node has taken them over meanwhile, and has settled what was out."""

    async def story() -> None:
        clock = Clock()
        database = ModelDatabase(clock.wall, lambda: _COMMIT_S)
        one = await node(database, "one")
        await one.queue.append([event(clock)])
        (item,) = await one.queue.claim(10)
        await one.stop_duties()
        assert one.session is not None
        one.session.end("the network is gone")
        other = await node(database, "other")
        (again,) = await other.queue.claim(10)
        assert await other.queue.settle([delivered(again)]) == [True]

        answers: list[bool] = []
        coming_back = asyncio.ensure_future(one.come_back())
        while not answers:
            try:
                answers += await one.queue.settle([delivered(item)])
            except StoreUnavailable:
                await asyncio.sleep(0.0001)
        await coming_back
        assert answers == [False]
        await one.abandon()
        await other.abandon()

    in_virtual_time(story)


def test_lanes_that_are_woken_while_a_node_has_no_session_are_woken_when_it_has_one_again() -> None:
    async def story() -> None:
        clock = Clock()
        database = ModelDatabase(clock.wall, lambda: _COMMIT_S)
        one = await node(database, "one")
        await one.queue.append([event(clock)])
        (item,) = await one.queue.claim(10)
        in_an_hour = int((clock.wall() + HOUR_S) * 1000)
        await one.queue.settle([Settlement(item, [], [Parked("fcm:main", in_an_hour, 1, ("fcm:a",))])])
        await one.stop_duties()
        assert one.session is not None
        one.session.end("the network is gone")
        command = await open_command(database)
        await command.schedule.wake(["fcm:main"])
        await one.notice_signals()
        await one.schedule.woken()
        await one.come_back()
        await one.look_after()
        assert len(await one.schedule.claim_due({"fcm:main": 10})) == 1
        await one.abandon()
        command.database.abandon()

    in_virtual_time(story)
