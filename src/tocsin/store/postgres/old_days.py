"""Lets the partitions of old days go, on a connection of its own: to detach one is no transaction.

What is still needed of a day is copied before, in steps: each finds what it needs by an index, since a day may have a
hundred million rows. What must wait for others waits two seconds, and is tried again with the next call; nothing else
has a time limit, so that a large day goes as a small one does.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import date, timedelta
from typing import Any, Final

import asyncpg
import structlog

from tocsin.store.postgres import partitions, reading, search_feed
from tocsin.store.postgres.connections import Connection, Target, connect
from tocsin.store.postgres.failures import is_gone, sentence, told
from tocsin.store.postgres.places import LOGS
from tocsin.store.postgres.schema import LOCK_SPACE

log = structlog.get_logger(__name__)

PRUNING: Final = 4
REMEMBERED_MS: Final = 24 * 3600 * 1000
"""An `event_id` is remembered at least this long, whatever the retention of receipts."""
_STEP_ROWS: Final = 2000
_LONGEST_S: Final = 24 * 3600.0
"""Of one step; it ends a wait for a server that is gone without a word."""
_LOCK_TIMEOUT: Final = "2s"
_WARN_AGAIN_S: Final = 3600.0
_FIRST_DAY: Final = date(1970, 1, 1)

_TRY: Final = f"SELECT pg_try_advisory_lock({LOCK_SPACE}, {PRUNING})"
_ABOVE: Final = """SELECT EXISTS (SELECT 1 FROM low_water AS low CROSS JOIN LATERAL (
    SELECT 1 FROM {partition} AS event
    WHERE event.stream = low.stream AND event.id IS NOT NULL AND (event.xid, event.seq) > (low.xid, low.seq)
    LIMIT 1) AS above)"""
# `NOT EXISTS` would be planned as a join, with all settlements on its other side.
_UNTRIED: Final = """SELECT EXISTS (SELECT 1 FROM low_water AS low CROSS JOIN LATERAL (
    SELECT 1 FROM {partition} AS event
    WHERE event.stream = low.stream AND event.id IS NOT NULL AND (event.xid, event.seq) > (low.xid, low.seq)
        AND (SELECT true FROM settlement WHERE settlement.day >= event.day
            AND settlement.stream = event.stream AND settlement.xid = event.xid AND settlement.seq = event.seq
            AND settlement.unit = 0 LIMIT 1) IS NULL
    LIMIT 1) AS untried)"""
_PARKED: Final = f"SELECT id, stream, xid, seq FROM parked WHERE id > $1 ORDER BY id LIMIT {_STEP_ROWS}"
_KEPT: Final = f"""SELECT stream, xid, seq FROM kept
    WHERE (stream, xid, seq) > ($1::smallint, $2::bigint, $3::bigint) ORDER BY stream, xid, seq LIMIT {_STEP_ROWS}"""
_KEEP_WAITING: Final = """INSERT INTO kept(stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size,
        content_key, body)
    SELECT event.stream, event.xid, event.seq, event.day, event.id, owner, message, accepted_ms, expires_ms, size,
        content_key, body
    FROM (SELECT DISTINCT stream, xid, seq FROM parked WHERE day = $1 AND id BETWEEN $2 AND $3) AS waiting
    JOIN {partition} AS event USING (stream, xid, seq)
    ON CONFLICT DO NOTHING"""
# Of what was settled late only the frame is kept: its content is forgotten. The transactions of a day's events are a
# range, by which its late settlements are found among those of a week.
_KEEP_RECENT: Final = """INSERT INTO kept(stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size,
        body, settled_ms)
    SELECT event.stream, event.xid, event.seq, event.day, event.id, owner, message, accepted_ms, expires_ms, 0,
        ''::bytea, late.settled_ms
    FROM (SELECT stream, xid, seq, max(at_ms) AS settled_ms FROM settlement
        WHERE stream = $3 AND event_day = $1 AND day >= $2
            AND xid >= (SELECT min(xid) FROM {partition} WHERE stream = $3)
            AND xid <= (SELECT max(xid) FROM {partition} WHERE stream = $3)
        GROUP BY stream, xid, seq) AS late
    JOIN {partition} AS event USING (stream, xid, seq)
    ON CONFLICT DO NOTHING"""
_NAMED: Final = "unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS named(stream, xid, seq)"
_KEEP_ATTEMPTS: Final = f"""INSERT INTO settlement(day, stream, xid, seq, unit, event_day, number, at_ms, attempts)
    SELECT $1, old.stream, old.xid, old.seq, unit, event_day, number, at_ms, attempts
    FROM {_NAMED} JOIN {{partition}} AS old USING (stream, xid, seq)
    ON CONFLICT DO NOTHING"""
# What was settled at the instant at which it was carried forward was not there yet to be ended.
_END_SETTLED: Final = """UPDATE kept SET settled_ms = named.at_ms, body = ''::bytea
    FROM (SELECT stream, xid, seq, (SELECT max(at_ms) FROM settlement WHERE settlement.stream = given.stream
            AND settlement.xid = given.xid AND settlement.seq = given.seq) AS at_ms
        FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS given(stream, xid, seq)) AS named
    WHERE kept.stream = named.stream AND kept.xid = named.xid AND kept.seq = named.seq AND kept.settled_ms IS NULL
        AND NOT kept.dead AND named.at_ms IS NOT NULL AND (SELECT true FROM parked WHERE parked.stream = kept.stream
            AND parked.xid = kept.xid AND parked.seq = kept.seq LIMIT 1) IS NULL"""
# The index of events that outlive their partition is carried forward with them.
_KEEP_SEEN: Final = f"""WITH carried AS (DELETE FROM {{partition}} AS old USING {_NAMED}
        WHERE old.seq = named.seq AND old.stream = named.stream AND old.xid = named.xid
        RETURNING old.seq, old.xid, old.accepted_ms, old.event_day, old.owner, old.shape, old.settlements, old.stream,
            old.waits)
    INSERT INTO seen(seq, xid, accepted_ms, day, event_day, owner, shape, settlements, stream, waits)
    SELECT seq, xid, accepted_ms, $1, event_day, owner, shape, settlements, stream, waits FROM carried
    ON CONFLICT DO NOTHING"""

_UNTRIED_WHY: Final = "an event of it was not tried yet"
_NEEDED_WHY: Final = "events of an older day, or of this one, may still have to be compared with it"
_READ_WHY: Final = (
    "a transaction that began before holds it (pg_stat_activity.xact_start names it); it goes when that has ended"
)
_OTHER_WHY: Final = "another day of this table is being detached, and a transaction that began before holds that one"


class OldDays:
    """Drops days, and remembers of which it has said that they cannot be dropped."""

    def __init__(self, target: Target, monotonic: Callable[[], float]) -> None:
        self._target = target
        self._monotonic = monotonic
        self._warned: dict[tuple[str, int, str], float] = {}

    async def drop(self, before_day: int, today: int) -> None:
        """Drop the days before this one, of every table, as far as nothing of them is needed. One process does at a
        time.

        Raises:
            StoreUnavailable: the database cannot be used.
        """
        try:
            watched = await connect(self._target, longest_s=_LONGEST_S)
        except Exception as error:
            raise told(error) from None
        connection = watched.connection
        try:
            if not await connection.fetchval(_TRY):
                return  # another node does it
            await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
            await self._drop(connection, before_day, today)
        except Exception as error:
            raise told(error) from None
        finally:
            with contextlib.suppress(Exception):
                await connection.close(timeout=2.0)

    async def _drop(self, connection: Connection, before_day: int, today: int) -> None:
        events, _, _ = await old_days(connection, before_day)
        for day, pending in _pending_first(events):
            await self._try("event", day, _drop_events(connection, day, pending, before_day))
        events, settlements, seen = await old_days(connection, before_day)
        needed_from = await _oldest_above(connection, events)
        for day, pending in _pending_first(settlements):
            await self._try("settlement", day, _drop_settlements(connection, day, pending, today, needed_from))
        for day, pending in _pending_first(seen):
            # Of days whose events are there still, their rows are needed.
            if day not in events:
                await self._try("seen", day, _drop_seen(connection, day, pending, today))

    async def _try(self, table: str, day: int, drop: Awaitable[str | None]) -> None:
        """Drop one day; where it must stay, say so: others may go all the same."""
        try:
            why = await drop
        except asyncpg.LockNotAvailableError:
            why = _READ_WHY
        except asyncpg.PostgresError as error:
            if is_gone(error):
                raise
            why = sentence(error)
        if why is not None:
            self._warn(table, day, why)

    def _warn(self, table: str, day: int, why: str) -> None:
        now, key = self._monotonic(), (table, day, why)
        if now >= self._warned.get(key, now):
            self._warned[key] = now + _WARN_AGAIN_S
            log.warning("a day whose retention is over cannot be dropped yet", table=table, day=date_of(day), why=why)


async def old_days(connection: Connection, before_day: int) -> list[dict[int, bool]]:
    """The days before this one that have partitions, of each table; whether each is being detached."""
    found = [await partitions.existing(connection, table) for table in partitions.TABLES]
    return [{day: pending for day, pending in one.items() if day < before_day} for one in found]


def date_of(day: int) -> str:
    """A day's date: "2026-11-27"."""
    return str(_FIRST_DAY + timedelta(days=day))


def _pending_first(days: dict[int, bool]) -> list[tuple[int, bool]]:
    # While one is being detached no other of its table can be.
    return sorted(days.items(), key=lambda one: (not one[1], one[0]))


async def _oldest_above(connection: Connection, events: dict[int, bool]) -> int | None:
    """The first of these days that has an event above its low water. A takeover compares such events with their
    settlements: without those it would send them again."""
    for day, pending in sorted(events.items()):
        # One that is being detached is not read any more.
        if not pending and await _asked(connection, _ABOVE.format(partition=partitions.name_of("event", day))):
            return day
    return None


async def _drop_events(connection: Connection, day: int, pending: bool, before_day: int) -> str | None:
    """Returns why it must stay."""
    partition = partitions.name_of("event", day)
    if not pending:
        if await _is_detaching(connection, "event"):
            return _OTHER_WHY
        if await _asked(connection, _UNTRIED.format(partition=partition)):
            return _UNTRIED_WHY
        async for rows in _parked(connection):
            statement = _KEEP_WAITING.format(partition=partition)
            await _step(connection, statement, day, rows[0]["id"], rows[-1]["id"])
        for stream in range(2 * LOGS):
            await _step(connection, _KEEP_RECENT.format(partition=partition), day, before_day, stream)
    await partitions.drop(connection, "event", day, pending)
    return None


async def _drop_settlements(
    connection: Connection, day: int, pending: bool, today: int, needed_from: int | None
) -> str | None:
    """Returns why it must stay."""
    if not pending:
        if needed_from is not None and day >= needed_from:
            return _NEEDED_WHY
        if await _is_detaching(connection, "settlement"):
            return _OTHER_WHY
        await _make(connection, today)
        statement = _KEEP_ATTEMPTS.format(partition=partitions.name_of("settlement", day))
        async for rows in _kept(connection):
            await _step(connection, _END_SETTLED, *_places(rows))
            await _step(connection, statement, today, *_places(rows))
        async for rows in _parked(connection):
            await _step(connection, statement, today, *_places(rows))
    await partitions.drop(connection, "settlement", day, pending)
    return None


async def _drop_seen(connection: Connection, day: int, pending: bool, today: int) -> str | None:
    """Returns why it must stay."""
    if not pending:
        if await _is_detaching(connection, "seen"):
            return _OTHER_WHY
        await _make(connection, today)
        statement = _KEEP_SEEN.format(partition=partitions.name_of("seen", day))
        async for rows in _kept(connection):
            async with connection.transaction():
                await search_feed.hold(connection)
                await reading.by_index(connection)
                await connection.execute(statement, today, *_places(rows))
    await partitions.drop(connection, "seen", day, pending)
    return None


async def _is_detaching(connection: Connection, table: str) -> bool:
    """Whether a day of this table is being detached: PostgreSQL detaches no other until that has ended."""
    return any((await partitions.existing(connection, table)).values())


async def _make(connection: Connection, today: int) -> None:
    async with connection.transaction():
        await partitions.make(connection, today, today)


async def _parked(connection: Connection) -> AsyncIterator[Sequence[Any]]:
    """All that is parked, some rows at a time. What is parked again meanwhile comes later."""
    rows = await connection.fetch(_PARKED, 0)
    while rows:
        yield rows
        rows = await connection.fetch(_PARKED, rows[-1]["id"])


async def _kept(connection: Connection) -> AsyncIterator[Sequence[Any]]:
    """The places of all events that outlive their partition, some at a time."""
    rows = await connection.fetch(_KEPT, -1, 0, 0)
    while rows:
        yield rows
        rows = await connection.fetch(_KEPT, *rows[-1])


def _places(rows: Sequence[Any]) -> list[list[int]]:
    return [[row[name] for row in rows] for name in ("stream", "xid", "seq")]


async def _asked(connection: Connection, statement: str) -> bool:
    async with connection.transaction():
        await reading.by_index(connection)
        return bool(await connection.fetchval(statement))


async def _step(connection: Connection, statement: str, *values: Any) -> None:
    """A statement in a transaction of its own, which finds what it is about by an index."""
    async with connection.transaction():
        await reading.by_index(connection)
        await connection.execute(statement, *values)
