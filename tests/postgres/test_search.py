"""The index of the search on PostgreSQL: who fills it, from what, and what becomes of it with the days."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.support import (
    DAY_MS,
    EVERYTHING,
    OWNER,
    TOKEN,
    claim,
    done,
    keep,
    make_event,
    parked,
    register,
)
from tests.contract.test_search import filled
from tests.postgres.nodes import Nodes, event_of
from tests.support.clocks import Clocks
from tests.support.postgres import PostgresStores

from tocsin.domain.events import Event
from tocsin.store.ports import SearchUnavailable
from tocsin.store.postgres import partitions, search_feed
from tocsin.store.postgres.append_sql import _INSERT
from tocsin.store.postgres.places import day_of, stream_of
from tocsin.store.postgres.schema import LOCK_SPACE
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import WAITING, Query, Result

FILLING = f"{LOCK_SPACE}, {search_feed._FILLING}"
DAY_S = DAY_MS / 1000
STREAM = stream_of(OWNER, urgent=False)


async def found(store: PostgresStore, *outcomes: str) -> list[str]:
    """The ids of the events that have a delivery with one of these outcomes, newest first."""
    page = await store.search.find(Query(outcomes=frozenset(outcomes)), 1000, for_s=60)
    assert page.next is None
    return [one.record.event.id for one in page.found]


async def settled(store: PostgresStore, *events: Event, result: Result = Result.DELIVERED) -> None:
    await store.queue.append(events)
    await store.queue.settle([done(item, result) for item in await claim(store, 1000, {})])


async def test_an_event_whose_commit_ends_after_that_of_a_later_row_is_found(nodes: Nodes) -> None:
    node = await nodes.open()
    late = event_of(node, OWNER)
    slow = await nodes.connection()
    transaction = slow.transaction()
    await transaction.start()
    await slow.fetchval(_INSERT, day_of(node.now_ms()), *await node.queue.inserts.values([late]))
    await register(node, TOKEN)  # a mark in the same stream, over which the cursor would go
    await filled(node)
    await transaction.commit()
    await node.queue.settle([done(item) for item in await claim(node, 10, {})])
    await filled(node)
    assert await found(node, "delivered") == [late.id]


async def test_one_process_fills_at_a_time_and_every_process_finds(nodes: Nodes) -> None:
    node, other, command = await nodes.open(), await nodes.open(), await nodes.open(server=False)
    event = event_of(node, OWNER)
    await settled(node, event)
    filling = await nodes.connection()
    await filling.execute(f"SELECT pg_advisory_lock({FILLING})")
    assert await node.search.fill(1.0) is False
    assert await found(node, "delivered") == []
    assert (await command.search.state()).waiting_events == 1
    await filling.execute(f"SELECT pg_advisory_unlock({FILLING})")
    await filled(other)
    for store in (node, other, command):
        assert await found(store, "delivered") == [event.id]
    assert (await node.search.state()).waiting_events == 0


async def test_what_changes_what_was_settled_waits_for_whoever_fills(nodes: Nodes) -> None:
    """What was read before a replay must not be written after it."""
    node = await nodes.open()
    event = event_of(node, OWNER)
    await settled(node, event, result=Result.REFUSED)
    await filled(node)
    filling = await nodes.connection()
    await filling.execute(f"SELECT pg_advisory_lock({FILLING})")
    for change in (node.log.replay([event.id], DAY_MS), node.users.erase(OWNER)):
        changing = asyncio.ensure_future(change)
        await asyncio.wait([changing], timeout=0.3)
        assert not changing.done()
        await filling.execute(f"SELECT pg_advisory_unlock({FILLING})")
        await asyncio.wait_for(changing, 30)
        await filling.execute(f"SELECT pg_advisory_lock({FILLING})")
    await filling.execute(f"SELECT pg_advisory_unlock({FILLING})")
    assert await found(node, "refused", WAITING) == []


async def test_an_event_that_is_out_for_long_does_not_hold_up_those_after_it(
    stores: PostgresStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_feed, "_ROWS", 8)
    store = await stores.open()
    events = [make_event(clocks) for _ in range(40)]
    await store.queue.append(events)
    first, *others = await claim(store, 100, {})
    clocks.pass_time(1)
    await store.queue.settle([done(item) for item in others])
    await filled(store)
    assert len(await found(store, "delivered")) < len(others)
    clocks.pass_time(9)
    assert (await store.search.state()).behind_s == pytest.approx(9, abs=1)
    await filled(store)
    assert await found(store, "delivered") == [item.event.id for item in reversed(others)]
    assert (await store.search.state()).behind_s == 0
    await store.queue.settle([done(first, Result.REFUSED)])
    await filled(store)
    assert await found(store, "refused") == [first.event.id]


async def test_of_very_many_that_wait_some_are_looked_at_each_time_and_the_lag_is_said(
    stores: PostgresStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_feed, "_LOOKED_AT_AGAIN", 3)
    store = await stores.open()
    events = [make_event(clocks) for _ in range(8)]
    await store.queue.append(events)
    await store.queue.settle([parked(item, clocks.now_ms) for item in await claim(store, 100, {})])
    await filled(store)
    items = await store.schedule.claim_due(EVERYTHING)
    await store.queue.settle([done(item, Result.REFUSED) for item in items])
    clocks.pass_time(4)
    seen = []
    for _ in range(4):
        await store.search.fill(1.0)
        seen.append(((await store.search.state()).behind_s, len(await found(store, "refused"))))
        clocks.pass_time(1)
    assert [number for _, number in seen][-1] == 8
    assert sorted(number for _, number in seen) == [number for _, number in seen]
    assert seen[0][0] > 0
    await filled(store)
    assert (await store.search.state()).behind_s == 0


async def test_tables_of_a_version_without_the_search_get_an_index_of_all_that_is_on_record(
    stores: PostgresStores, clocks: Clocks
) -> None:
    store = await stores.open()
    old, dead = make_event(clocks), make_event(clocks)
    await settled(store, old)
    await settled(store, dead, result=Result.REFUSED)
    clocks.pass_time(4 * DAY_S)
    await store.look_after()
    new = make_event(clocks)
    await settled(store, new)
    connection = await stores.connection()
    await connection.execute("DROP TABLE seen, seen_to, shape, credential_check")
    await connection.execute("DROP INDEX kept_done, kept_content_key")
    await connection.execute("DELETE FROM meta WHERE name LIKE 'search%'")
    await connection.execute("UPDATE meta SET value = 1 WHERE name IN ('schema', 'oldest')")
    store = await stores.reopen()
    before = await store.search.state()
    assert (before.rebuilding, before.waiting_events, before.indexed_to_ms) == (True, 3, None)
    await filled(store)
    assert await found(store, "delivered", "refused") == [new.id, dead.id, old.id]
    assert (await store.search.state()).rebuilding is False


async def test_the_index_of_a_day_goes_with_its_events_and_that_of_dead_letters_stays(
    stores: PostgresStores, clocks: Clocks
) -> None:
    store = await stores.open()
    first, fine, dead = day_of(clocks.now_ms), make_event(clocks), make_event(clocks)
    await settled(store, fine)
    await settled(store, dead, result=Result.REFUSED)
    await filled(store)
    clocks.pass_time(3 * DAY_S)
    await store.look_after()
    while await store.prune(keep(DAY_S, DAY_S, 30 * DAY_S)):
        pass
    for table in partitions.TABLES:
        assert first not in await store.database.read(lambda one, table=table: partitions.existing(one, table))
    assert await found(store, "delivered", "refused") == [dead.id]
    await store.log.replay(None, DAY_MS)
    await filled(store)
    assert await found(store, WAITING) == [dead.id]
    await store.queue.settle([done(item) for item in await store.schedule.claim_due(EVERYTHING)])
    await filled(store)
    assert await found(store, "delivered") == [dead.id]
    clocks.pass_time(3 * DAY_S)
    await store.look_after()
    while await store.prune(keep(DAY_S, DAY_S, 30 * DAY_S)):
        pass
    await filled(store)
    assert await found(store, "delivered", "refused", WAITING) == []
    rows = await store.database.read(lambda one: one.fetchval("SELECT count(*) FROM seen"))
    assert rows == 0


async def test_a_search_that_is_switched_off_says_so(nodes: Nodes) -> None:
    node = await nodes.open(search=False)
    await settled(node, event_of(node, OWNER))
    assert await node.search.fill(1.0) is False
    assert (await node.search.state()).waiting_events == 0
    with pytest.raises(SearchUnavailable, match="switched off"):
        await node.search.find(Query(), 10)


async def test_events_of_earlier_days_that_follow_in_their_stream_are_found(
    stores: PostgresStores, clocks: Clocks
) -> None:
    """A store that was moved here is so: what was tried comes first, and then what waits, however old it is."""
    store = await stores.open(lease_s=1e9)
    old, new = make_event(clocks), make_event(clocks)
    await store.queue.append([old])
    (item,) = await claim(store, 10, {})
    clocks.pass_time(5 * DAY_S)
    await store.look_after()
    await settled(store, new)
    connection = await stores.connection()
    for table in ("event", "settlement"):
        await connection.execute(
            f"UPDATE {table} SET xid = 3 WHERE day = $1 AND stream = $2", day_of(clocks.now_ms), STREAM
        )
    await filled(store)
    assert await found(store, "delivered") == [new.id]
    await store.queue.settle([done(item)])
    await filled(store)
    assert await found(store, "delivered") == [new.id, old.id]
