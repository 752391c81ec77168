"""Partitions come and go under load; what is still needed of a day is carried forward."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.support import EVERYTHING, OWNER, claim, done, keep, make_event, parked
from tests.support.clocks import Clocks
from tests.support.postgres import PostgresStores

from tocsin.store.postgres import partitions
from tocsin.store.postgres.places import day_of
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import Result, State

DAY_S = 24 * 3600.0
WEEK = keep(7 * DAY_S, 30 * DAY_S, 30 * DAY_S)


async def days(store: PostgresStore, table: str) -> set[int]:
    return set(await store.database.read(lambda one: partitions.existing(one, table)))


async def prune(store: PostgresStore) -> None:
    while await store.prune(WEEK):
        pass


async def test_a_day_goes_with_its_partition_once_all_of_it_is_old(stores: PostgresStores, clocks: Clocks) -> None:
    store = await stores.open()
    first = day_of(clocks.now_ms)
    event = make_event(clocks)
    await store.queue.append([event])
    await store.queue.settle([done(item) for item in await claim(store, 10, {})])
    clocks.pass_time(8 * DAY_S)
    await store.look_after()
    await prune(store)
    assert first not in await days(store, "event") | await days(store, "settlement")
    assert day_of(clocks.now_ms) + partitions.AHEAD_DAYS in await days(store, "event")
    assert await store.log.record(event.id) is None
    await store.queue.append([event])
    assert len(await claim(store, 10, {})) == 1, "its id is forgotten with it"


async def test_what_waits_is_carried_forward_with_its_body_its_targets_and_its_attempts(
    stores: PostgresStores, clocks: Clocks
) -> None:
    store = await stores.open()
    first = day_of(clocks.now_ms)
    event, dead = make_event(clocks, padding=50), make_event(clocks)
    await store.queue.append([event, dead])
    items = {item.event.id: item for item in await claim(store, 10, {})}
    later_ms = clocks.now_ms + int(10 * DAY_S * 1000)
    await store.queue.settle([parked(items[event.id], later_ms), done(items[dead.id], Result.REFUSED)])
    before = await store.log.record(event.id), await store.log.record(dead.id)
    clocks.pass_time(9 * DAY_S)
    await store.look_after()
    await prune(store)
    assert first not in await days(store, "event") | await days(store, "settlement")
    assert (await store.log.record(event.id), await store.log.record(dead.id)) == before
    await store.queue.append([event])
    store = await stores.crash()
    assert (await store.queue.backlog()).events == 1, "its id is known"
    clocks.pass_time(2 * DAY_S)
    (again,) = await claim(store, 10, EVERYTHING)
    assert (again.event, again.targets, again.tries) == (event, ("apns:a",), 1)
    await store.queue.settle([done(again)])
    record = await store.log.record(event.id)
    assert record is not None
    assert (record.state, len(record.attempts), record.event.body) == (State.DONE, 2, b"")
    assert await store.log.replay([dead.id], 3_600_000) == 1
    (again,) = await claim(store, 10, EVERYTHING)
    assert (again.event.id, again.event.body) == (dead.id, dead.body)


async def test_a_day_with_an_event_that_nobody_has_tried_stays(stores: PostgresStores, clocks: Clocks) -> None:
    store = await stores.open()
    first = day_of(clocks.now_ms)
    event = make_event(clocks)
    await store.queue.append([event])
    clocks.pass_time(9 * DAY_S)
    await prune(store)
    assert first in await days(store, "event")
    (item,) = await claim(store, 10, {})
    assert item.event == event
    await store.queue.settle([done(item)])
    await prune(store)
    assert first not in await days(store, "event")
    record = await store.log.record(event.id)
    assert record is not None
    assert (record.state, len(record.attempts)) == (State.DONE, 1), "it was settled just now"


async def test_a_reader_that_holds_a_snapshot_blocks_no_insert_while_partitions_come_and_go(
    stores: PostgresStores, clocks: Clocks
) -> None:
    """`CREATE TABLE … PARTITION OF` and `DROP TABLE` of a partition would wait for it, and every insert behind them."""
    store = await stores.open()
    await store.queue.append([make_event(clocks)])
    await store.queue.settle([done(item) for item in await claim(store, 10, {})])
    reader = await stores.connection()
    transaction = reader.transaction(isolation="repeatable_read")
    await transaction.start()
    assert await reader.fetchval("SELECT count(*) FROM event") == 1
    clocks.pass_time(8 * DAY_S)
    await asyncio.wait_for(store.look_after(), 20)
    assert day_of(clocks.now_ms) in await days(store, "event")
    pruning = asyncio.ensure_future(prune(store))
    watcher = await stores.connection()
    exclusive = (
        "SELECT count(*) FROM pg_locks WHERE relation IN ('event'::regclass, 'settlement'::regclass)"
        " AND mode = 'AccessExclusiveLock'"
    )
    for _ in range(20):
        await asyncio.wait_for(store.queue.append([make_event(clocks)]), 10)
        await asyncio.sleep(0.01)
        assert await watcher.fetchval(exclusive) == 0, "what waits for such a lock has every insert wait behind it"
    assert await reader.fetchval("SELECT count(*) FROM event") == 1
    await transaction.rollback()
    await asyncio.gather(pruning, return_exceptions=True)
    await prune(store)
    assert len(await claim(store, 100, {})) == 20


async def test_a_detachment_that_was_interrupted_is_finished(stores: PostgresStores, clocks: Clocks) -> None:
    store = await stores.open()
    first = day_of(clocks.now_ms)
    reader = await stores.connection()
    transaction = reader.transaction(isolation="repeatable_read")
    await transaction.start()
    await reader.fetchval("SELECT count(*) FROM event")
    other = await stores.connection()
    await other.execute("SET statement_timeout = '300ms'")
    with pytest.raises(Exception, match="statement timeout"):
        await other.execute(f"ALTER TABLE event DETACH PARTITION event_{first} CONCURRENTLY")
    await transaction.rollback()
    found = await store.database.read(lambda one: partitions.existing(one, "event"))
    assert found[first], "it is being detached"
    clocks.pass_time(9 * DAY_S)
    await store.look_after()
    await prune(store)
    assert first not in await days(store, "event")


async def test_an_event_of_a_day_without_a_partition_is_accepted(stores: PostgresStores, clocks: Clocks) -> None:
    store = await stores.open()
    clocks.pass_time(30 * DAY_S)
    event = make_event(clocks)
    await store.queue.append([event])
    (item,) = await claim(store, 10, {})
    assert item.event == event
    clocks.pass_time(30 * DAY_S)
    assert await store.queue.settle([done(item)]) == [True]
    assert event.owner == OWNER
