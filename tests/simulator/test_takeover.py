"""Takeovers and claims in virtual time, on the model of the database: its clock can be set, and each moment be met."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
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
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.due_sql import Due
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.options import FRESH_S, PostgresOptions
from tocsin.store.postgres.places import LOGS, log_of
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


async def claimed(store: PostgresStore) -> list[Item]:
    items: list[Item] = []
    while found := await store.queue.claim(1000):
        items += found
    return items


def event(clock: Clock, number: int = 0) -> Event:
    now_ms = int(clock.wall() * 1000)
    id = str(UUID(int=number))
    return Event(EventId(id), UserId(id), "fax_new", now_ms, now_ms + 60_000, b"{}")


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


@pytest.mark.parametrize("parked", [False, True])
def test_a_log_is_not_given_up_while_something_of_it_is_being_claimed(parked: bool) -> None:
    """However the claim and the division of logs among the nodes fall together."""

    async def story(seed: int) -> None:
        clock = Clock()
        database = ModelDatabase(clock.wall, lambda: _COMMIT_S)
        one = await node(database, f"one {seed}")
        await one.stop_duties()
        await one.beat()
        events = [event(clock, owner) for owner in range(40)]
        await one.queue.append(events)
        if parked:
            now_ms = int(clock.wall() * 1000)
            waits = [Settlement(item, [], [Parked("fcm:main", now_ms, 1, ("fcm:a",))]) for item in await claimed(one)]
            await one.queue.settle(waits)
        other = await node(database, f"other {seed}")
        await other.stop_duties()
        await one.beat()
        await other.beat()
        claim = one.schedule.claim_due({"fcm:main": 100}) if parked else claimed(one)
        claiming = asyncio.ensure_future(claim)
        await asyncio.sleep(Random(seed).uniform(0, 0.004))
        await one.rebalance()
        out = {log_of(item.event.owner) for item in await claiming}
        assert out
        assert out <= one.ownership.held.keys()
        await one.abandon()
        await other.abandon()

    for seed in range(12):
        in_virtual_time(partial(story, seed))


def test_what_a_claim_has_read_that_fails_midway_is_claimed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    earliest, calls = Due.earliest, count(1)

    async def failing(due: Due, connection: Connection) -> int | None:
        if next(calls) == 2:
            raise StoreUnavailable("the network is gone")
        return await earliest(due, connection)

    async def story() -> None:
        clock = Clock()
        one = await node(ModelDatabase(clock.wall, lambda: _COMMIT_S), "one")
        await one.stop_duties()
        await one.beat()
        await one.queue.append([event(clock)])
        (item,) = await one.queue.claim(10)
        now_ms = int(clock.wall() * 1000)
        lanes = ("fcm:main", "fcm:other")
        await one.queue.settle([Settlement(item, [], [Parked(lane, now_ms, 1, (lane,)) for lane in lanes])])
        monkeypatch.setattr(Due, "earliest", failing)
        with pytest.raises(StoreUnavailable):
            await one.schedule.claim_due(dict.fromkeys(lanes, 10))
        assert len(await one.schedule.claim_due(dict.fromkeys(lanes, 10))) == 2
        await one.abandon()

    in_virtual_time(story)


def test_what_is_parked_while_its_lane_is_being_claimed_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    earliest = Due.earliest

    async def story() -> None:
        clock = Clock()
        one = await node(ModelDatabase(clock.wall, lambda: _COMMIT_S), "one")
        await one.stop_duties()
        await one.beat()
        await one.queue.append([event(clock, 1), event(clock, 2)])
        now_ms = int(clock.wall() * 1000)
        first, second = [Settlement(item, [], [Parked("fcm:main", now_ms, 1, ("a",))]) for item in await claimed(one)]
        await one.queue.settle([first])

        async def slow(due: Due, connection: Connection) -> int | None:
            found = await earliest(due, connection)
            await one.queue.settle([second])
            return found

        with monkeypatch.context() as patched:
            patched.setattr(Due, "earliest", slow)
            assert len(await one.schedule.claim_due({"fcm:main": 10})) == 1
        assert len(await one.schedule.claim_due({"fcm:main": 10})) == 1
        await one.abandon()

    in_virtual_time(story)
