"""Days whose retention is over go, however large they are; where one cannot go, the others do, and it is named."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.contract.support import EVERYTHING, claim, done, keep, make_event, parked
from tests.postgres.test_plans import busiest
from tests.support.clocks import Clocks
from tests.support.postgres import PostgresStores

from tocsin.store.postgres import connections, maintenance, old_days, old_ids, partitions, reading
from tocsin.store.postgres.old_days import date_of
from tocsin.store.postgres.places import day_of
from tocsin.store.postgres.store import PostgresStore

DAY_S = 24 * 3600.0
WEEK = keep(7 * DAY_S, 30 * DAY_S, 30 * DAY_S)
_EVENTS = 12_800
_LATE = 5


async def days(store: PostgresStore, table: str) -> dict[int, bool]:
    return await store.database.read(lambda one: partitions.existing(one, table))


async def prune(store: PostgresStore) -> None:
    while await store.prune(WEEK):
        pass


async def settled_event(store: PostgresStore, clocks: Clocks) -> int:
    """The day of an event that was settled at once."""
    await store.queue.append([make_event(clocks)])
    await store.queue.settle([done(item) for item in await claim(store, 10, {})])
    return day_of(clocks.now_ms)


async def reading_events(stores: PostgresStores) -> Any:
    """A transaction that has read the events, and stays open."""
    reader = await stores.connection()
    transaction = reader.transaction(isolation="repeatable_read")
    await transaction.start()
    await reader.fetchval("SELECT count(*) FROM event")
    return transaction


async def test_a_day_goes_although_a_step_of_it_takes_longer_than_a_statement_may(
    stores: PostgresStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open()
    first = await settled_event(store, clocks)
    clocks.pass_time(8 * DAY_S)
    await store.look_after()
    makes = partitions.make

    async def make(connection: Any, first_day: int, last_day: int) -> None:
        assert connection.is_in_transaction(), "else its lock and its limit end with the statement that sets them"
        await makes(connection, first_day, last_day)

    monkeypatch.setattr(partitions, "make", make)
    # Until a reader lets go of this table, which takes longer than a statement may.
    blocker = await stores.connection()
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute(f"LOCK TABLE settlement_{first} IN ACCESS EXCLUSIVE MODE")
    with monkeypatch.context() as patched:
        patched.setattr(connections, "_STATEMENT_S", 0.1)
        pruning = asyncio.ensure_future(store._housekeeping._old_days.drop(first + 1, day_of(clocks.now_ms)))
        await asyncio.sleep(0.6)
        await transaction.rollback()
        await pruning
    assert first not in await days(store, "event")
    assert first not in await days(store, "settlement")


async def test_where_a_day_is_being_read_it_is_named_and_days_of_the_other_tables_go(
    stores: PostgresStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_days, "_LOCK_TIMEOUT", "200ms")
    store = await stores.open()
    first = await settled_event(store, clocks)
    clocks.pass_time(DAY_S)
    await store.look_after()
    second = await settled_event(store, clocks)
    assert second == first + 1
    clocks.pass_time(9 * DAY_S)
    await store.look_after()
    transaction = await reading_events(stores)
    with capture_logs() as lines:
        await prune(store)
        await prune(store)
    await transaction.rollback()
    assert (await days(store, "event"))[first], "it is being detached"
    assert second in await days(store, "event"), "PostgreSQL detaches one at a time"
    assert not {first, second} & set(await days(store, "settlement"))
    warned = [(line["table"], line["day"]) for line in lines if line["log_level"] == "warning"]
    assert warned.count(("event", date_of(first))) == 1, "not every ten seconds"
    assert ("event", date_of(second)) in warned
    (why,) = [line["why"] for line in lines if line.get("day") == date_of(first)]
    assert "pg_stat_activity" in why
    findings = await maintenance.check(stores.url, None, keep_s=7 * DAY_S, now_ms=clocks.now_ms)
    assert any("past their retention" in one and date_of(second) in one for one in findings), findings
    await prune(store)
    assert not {first, second} & set(await days(store, "event"))
    findings = await maintenance.check(stores.url, None, keep_s=7 * DAY_S, now_ms=clocks.now_ms)
    assert not any("past their retention" in one for one in findings)


async def test_what_was_settled_of_a_day_that_must_stay_is_not_sent_again_by_who_takes_its_log_over(
    stores: PostgresStores, clocks: Clocks
) -> None:
    """Its settlements are of a day whose retention is over; but they say that it was sent."""
    store = await stores.open()
    waits, sent = make_event(clocks, lives_s=60 * DAY_S), make_event(clocks, lives_s=60 * DAY_S)
    first = day_of(clocks.now_ms)
    await store.queue.append([waits, sent])
    items = {item.event.id: item for item in await claim(store, 10, {})}
    await store.queue.settle([done(items[sent.id])])
    clocks.pass_time(9 * DAY_S)
    with capture_logs() as lines:
        await prune(store)
    assert {(line["table"], line["day"]) for line in lines} == {
        ("event", date_of(first)),
        *(("settlement", date_of(day)) for day in (first, first + 1)),
    }
    store = await stores.crash()
    assert [item.event.id for item in await claim(store, 10, {})] == [waits.id]


async def test_letting_old_days_go_ends_at_once_where_the_server_stops(stores: PostgresStores, clocks: Clocks) -> None:
    store = await stores.open()
    await settled_event(store, clocks)
    clocks.pass_time(8 * DAY_S)
    await store.look_after()
    blocker, watcher = await stores.connection(), await stores.connection()
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE kept IN ACCESS EXCLUSIVE MODE")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'kept'::regclass"
    old = old_days.OldDays(store._session_target, time.monotonic)
    dropping = asyncio.ensure_future(old.drop(day_of(clocks.now_ms) - 7, day_of(clocks.now_ms)))
    while not await watcher.fetchval(waiting):
        await asyncio.sleep(0.01)
    dropping.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(dropping, return_exceptions=True)
        while await watcher.fetchval(waiting):
            await asyncio.sleep(0.01)
    await transaction.rollback()


async def test_what_is_needed_of_a_large_day_is_found_by_an_index(stores: PostgresStores, clocks: Clocks) -> None:
    """Of a day whose events were settled at once, but for a few that were settled a week later."""
    await stores.open()
    day, connection = day_of(clocks.now_ms), await stores.connection()
    async with connection.transaction():
        await partitions.make(connection, day, day + 8)
    events = (
        "INSERT INTO event(day, stream, xid, seq, id, owner, message, accepted_ms, expires_ms, size, body)"
        " SELECT $1::int, n % 128, $1::int * 1000 + n / 1000, n, gen_random_uuid(), gen_random_uuid(), 'fax_new', n, n,"
        " 0, '' FROM generate_series(1::int, $2::int) AS t(n)"
    )
    settled = (
        "INSERT INTO settlement(day, stream, xid, seq, unit, event_day, at_ms, attempts)"
        " SELECT $2::int, stream, xid, seq, $3::int, day, 0, '[]' FROM event WHERE day = $1 AND seq <= $4"
    )
    for one in (day, day + 8):
        await connection.execute(events, one, _EVENTS)
        await connection.execute(settled, one, one, 0, _EVENTS)
    await connection.execute(settled, day, day + 8, 1, _LATE)
    await connection.execute("UPDATE low_water SET day = $1, xid = 1::bigint << 40", day + 8)
    await connection.execute("ANALYZE")
    event, settlement = f"event_{day}", f"settlement_{day}"
    rows = await connection.fetch("SELECT stream, xid, seq FROM event WHERE day = $1 LIMIT 10", day)
    columns = [f"'{{{','.join(str(row[name]) for row in rows)}}}'" for name in ("stream", "xid", "seq")]
    for statement, values in (
        (old_days._ABOVE.format(partition=event), []),
        (old_days._UNTRIED.format(partition=event), []),
        (old_days._KEEP_WAITING.format(partition=event), [day, 1, 1000]),
        *((old_days._KEEP_RECENT.format(partition=event), [day, day + 1, stream]) for stream in range(128)),
        (old_days._KEEP_ATTEMPTS.format(partition=settlement), [day + 8, *columns]),
        (old_days._KEEP_SEEN.format(partition=f"seen_{day}"), [day + 8, *columns]),
    ):
        transaction = connection.transaction()
        await transaction.start()
        await reading.by_index(connection)
        await connection.execute(f"PREPARE looked AS {statement}")
        given = f"({', '.join(map(str, values))})" if values else ""
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE looked{given}")
        await connection.execute("DEALLOCATE looked")
        await transaction.commit()
        assert busiest(json.loads(explained)[0]["Plan"]) <= 300, statement
    assert await connection.fetchval("SELECT count(*) FROM kept WHERE day = $1", day) == _LATE


async def test_ids_of_days_that_are_gone_are_forgotten_wherever_they_lie_and_each_is_looked_at_once(
    stores: PostgresStores, clocks: Clocks
) -> None:
    """Few of very many: a step that looks for some goes through all that is not old, again and again."""
    store = await stores.open()
    today, connection = day_of(clocks.now_ms), await stores.connection()
    await connection.execute(
        "INSERT INTO event_id(id, digest, day, stream, xid) SELECT gen_random_uuid(), '', CASE WHEN n % 100 = 0"
        " THEN $1 - 20 ELSE $1 END, 0, n FROM generate_series(1, $2::int) AS t(n)",
        today,
        100_000,
    )
    await connection.execute("ANALYZE event_id")
    transaction = connection.transaction()
    await transaction.start()
    await reading.by_index(connection)
    await connection.execute(f"PREPARE looked AS {old_ids._FORGET}")
    explained = await connection.fetchval(
        f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE looked('(0,0)', '(10,0)', {today - 7})"
    )
    await transaction.rollback()
    assert busiest(json.loads(explained)[0]["Plan"]) <= 2000, explained
    assert await connection.fetchval(old_ids._BLOCKS) > old_ids._STEP_BLOCKS * 2, "it takes several steps"
    await prune(store)
    assert await connection.fetchval("SELECT count(*) FROM event_id WHERE day < $1", today) == 0
    assert await connection.fetchval("SELECT count(*) FROM event_id") == 99_000
    assert (await connection.fetchval("SELECT value FROM meta WHERE name = $1", old_ids._BLOCK)) == old_ids._ALL


async def test_the_id_of_an_event_that_has_outlived_its_day_is_forgotten_with_it(
    stores: PostgresStores, clocks: Clocks
) -> None:
    """Those of its day were gone through before."""
    store = await stores.open()
    connection = await stores.connection()
    event = make_event(clocks)
    await store.queue.append([event])
    (item,) = await claim(store, 10, {})
    await store.queue.settle([parked(item, clocks.now_ms)])
    clocks.pass_time(9 * DAY_S)
    await store.look_after()
    await prune(store)
    (item,) = await claim(store, 10, EVERYTHING)
    await store.queue.settle([done(item)])
    known = "SELECT count(*) FROM event_id WHERE id = $1"
    clocks.pass_time(7 * DAY_S - 3600)
    await prune(store)
    assert await connection.fetchval(known, event.id) == 1
    clocks.pass_time(2 * 3600)
    await prune(store)
    assert await store.log.record(event.id) is None
    assert await connection.fetchval(known, event.id) == 0


async def test_what_is_settled_while_it_is_carried_forward_is_not_kept_for_ever(
    stores: PostgresStores, clocks: Clocks
) -> None:
    store = await stores.open()
    connection = await stores.connection()
    event, waits = make_event(clocks, lives_s=60 * DAY_S), make_event(clocks, lives_s=60 * DAY_S)
    first = day_of(clocks.now_ms)
    await store.queue.append([event, waits])
    for item in await claim(store, 10, {}):
        await store.queue.settle([parked(item, clocks.now_ms)])
    clocks.pass_time(9 * DAY_S)
    await store.look_after()
    items = {item.event.id: item for item in await claim(store, 10, EVERYTHING)}
    # Who settles it does not see what is not committed yet, and the other way round.
    async with connection.transaction():
        await connection.execute(old_days._KEEP_WAITING.format(partition=f"event_{first}"), first, 0, 1000)
        await store.queue.settle([done(items[event.id])])
    await prune(store)
    rows = dict(await connection.fetch("SELECT id::text, settled_ms IS NOT NULL AND body = ''::bytea FROM kept"))
    assert rows == {event.id: True, waits.id: False}
    assert await store.queue.settle([done(items[waits.id])]) == [True]
    clocks.pass_time(8 * DAY_S)
    await store.look_after()
    await prune(store)
    assert await connection.fetchval("SELECT count(*) FROM kept") == 0
