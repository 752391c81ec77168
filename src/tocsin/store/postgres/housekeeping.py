"""Forgets what is old: whole days of events and settlements with their partitions, the rest in small steps.

An event is forgotten when its retention has passed since it was settled. Its partition goes when nothing in it is
needed: what waits, and what was settled late, is copied to `kept` before. What nobody has tried yet keeps its
partition.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import asyncpg
import structlog

from tocsin.store.clock import ClockWatch
from tocsin.store.postgres import audit, partitions, search_feed
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database, Target, connect
from tocsin.store.postgres.failures import told
from tocsin.store.postgres.horizons import Horizons
from tocsin.store.postgres.places import DAY_MS, day_of
from tocsin.store.postgres.schema import LOCK_SPACE
from tocsin.store.records import ENDED, Retention

log = structlog.get_logger(__name__)

_PRUNING: Final = 4
_STEP_ROWS: Final = 500
_PAUSE_S: Final = 0.01
_JUMP_MS: Final = 3600 * 1000
_AFTER_A_JUMP_S: Final = 3600.0
REMEMBERED_MS: Final = 24 * 3600 * 1000
"""An `event_id` is remembered at least this long, whatever the retention of receipts."""

_TRY: Final = f"SELECT pg_try_advisory_xact_lock({LOCK_SPACE}, {_PRUNING})"
_TRY_SESSION: Final = f"SELECT pg_try_advisory_lock({LOCK_SPACE}, {_PRUNING})"
# A dead letter whose time is over is done, and was for ever: its event may still lie in its partition.
_OLD_LETTERS: Final = f"""UPDATE kept SET dead = false, settled_ms = 0, body = ''::bytea
    WHERE (stream, xid, seq) IN (SELECT stream, xid, seq FROM kept WHERE dead AND settled_ms IS NOT NULL
        AND settled_ms < $1 LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_KEPT: Final = f"""DELETE FROM kept WHERE (stream, xid, seq) IN (SELECT stream, xid, seq FROM kept
    WHERE NOT dead AND settled_ms IS NOT NULL AND settled_ms < $1 AND day < $2 LIMIT {_STEP_ROWS}) RETURNING 1"""
# What is quarantined may be released yet, however old it is.
_OLD_REMOVALS: Final = f"""DELETE FROM removal WHERE id IN (SELECT id FROM removal WHERE NOT quarantined
    AND removed_ms < $1 LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_SESSIONS: Final = f"""DELETE FROM session WHERE hash IN (SELECT hash FROM session WHERE expires_ms < $1
    LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_JOBS: Final = f"""DELETE FROM job WHERE seq IN (SELECT seq FROM job
    WHERE changed_ms < $1 AND state IN ({", ".join(repr(str(state)) for state in sorted(ENDED))})
    LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_SIGNALS: Final = f"""DELETE FROM signal WHERE id IN (SELECT id FROM signal
    WHERE at < clock_timestamp() - interval '1 day' ORDER BY id LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_IDS: Final = f"""DELETE FROM event_id WHERE id IN (SELECT id FROM event_id WHERE day < $1
    AND NOT EXISTS (SELECT 1 FROM kept WHERE kept.id = event_id.id) LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_KEYS: Final = """DELETE FROM content_key WHERE until_ms < $1
    AND NOT EXISTS (SELECT 1 FROM kept WHERE kept.content_key = content_key.id)"""

_UNTRIED: Final = """SELECT EXISTS (SELECT 1 FROM {partition} AS event JOIN low_water AS low USING (stream)
    WHERE event.id IS NOT NULL AND (event.xid, event.seq) > (low.xid, low.seq) AND NOT EXISTS (SELECT 1 FROM settlement
        WHERE settlement.stream = event.stream AND settlement.xid = event.xid AND settlement.seq = event.seq
            AND settlement.unit = 0))"""
_KEEP_WAITING: Final = """INSERT INTO kept(stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size,
        content_key, body)
    SELECT stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size, content_key, body FROM {partition}
    WHERE (stream, xid, seq) IN (SELECT stream, xid, seq FROM parked WHERE day = $1) ON CONFLICT DO NOTHING"""
# Of what was settled late only the frame is kept: its content is forgotten.
_KEEP_RECENT: Final = """INSERT INTO kept(stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size,
        body, settled_ms)
    SELECT event.stream, event.xid, event.seq, event.day, event.id, owner, message, accepted_ms, expires_ms, 0,
        ''::bytea, late.settled_ms
    FROM {partition} AS event JOIN (SELECT stream, xid, seq, max(at_ms) AS settled_ms FROM settlement
        WHERE event_day = $1 AND day >= $2 GROUP BY stream, xid, seq) AS late USING (stream, xid, seq)
    ON CONFLICT DO NOTHING"""
_KEEP_ATTEMPTS: Final = """INSERT INTO settlement(day, stream, xid, seq, unit, event_day, number, at_ms, attempts)
    SELECT $1, stream, xid, seq, unit, event_day, number, at_ms, attempts FROM {partition} AS old
    WHERE EXISTS (SELECT 1 FROM kept WHERE kept.stream = old.stream AND kept.xid = old.xid AND kept.seq = old.seq)
        OR EXISTS (SELECT 1 FROM parked WHERE parked.stream = old.stream AND parked.xid = old.xid
            AND parked.seq = old.seq)
    ON CONFLICT DO NOTHING"""
# The index of events that outlive their partition is carried forward with them.
_KEEP_SEEN: Final = """WITH carried AS (DELETE FROM {partition} AS old USING kept
        WHERE kept.stream = old.stream AND kept.xid = old.xid AND kept.seq = old.seq
        RETURNING old.seq, old.xid, old.accepted_ms, old.event_day, old.owner, old.shape, old.settlements, old.stream,
            old.waits)
    INSERT INTO seen(seq, xid, accepted_ms, day, event_day, owner, shape, settlements, stream, waits)
    SELECT seq, xid, accepted_ms, $1, event_day, owner, shape, settlements, stream, waits FROM carried
    ON CONFLICT DO NOTHING"""


class Housekeeping:
    def __init__(
        self,
        database: Database,
        session_target: Target,
        horizons: Horizons,
        clock: DatabaseClock,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._target = session_target
        self._horizons = horizons
        self._clock = clock
        self._monotonic = monotonic
        self._watch = ClockWatch(clock.wall, monotonic)
        self._not_before = 0.0

    async def prune(self, retention: Retention, *, for_s: float) -> bool:
        """Work for about `for_s`; returns whether there is more to do. One node does at a time."""
        if self._watch.set_by_ms() > _JUMP_MS:
            self._not_before = self._monotonic() + _AFTER_A_JUMP_S
            log.warning("the database's clock was set forward by more than an hour: nothing is forgotten for an hour")
        if self._monotonic() < self._not_before:
            return False
        now_ms, until = self._clock.now_ms(), self._monotonic() + for_s
        done_ms = now_ms - max(int(retention.events_s * 1000), REMEMBERED_MS)
        dead_ms = now_ms - max(int(retention.dead_letters_s * 1000), REMEMBERED_MS)
        removed_ms = now_ms - int(retention.removals_s * 1000)
        audit_ms = now_ms - int(retention.audit_s * 1000)
        await self._database.write(lambda one: self._horizons.write(one, done_ms, dead_ms))
        while await self._database.write(lambda one: _forget_some(one, done_ms, dead_ms, removed_ms, audit_ms)):
            if self._monotonic() >= until:
                return True
            await asyncio.sleep(_PAUSE_S)
        before_day = day_of(done_ms)
        if any(await self._database.read(lambda one: _old_days(one, before_day))):
            await self._drop_days(before_day, day_of(now_ms))
        return await self._database.write(lambda one: _forget_ids(one, before_day))

    async def _drop_days(self, before_day: int, today: int) -> None:
        """Let the partitions of these days go, on a connection of its own: to detach one is no transaction."""
        try:
            watched = await connect(self._target)
        except Exception as error:
            raise told(error) from None
        connection = watched.connection
        try:
            if not await connection.fetchval(_TRY_SESSION):
                return  # another node does it
            await connection.execute("SET lock_timeout = '2s'")
            events, settlements, _ = await _old_days(connection, before_day)
            for day, pending in sorted(events.items()):
                await _drop_events(connection, day, pending, before_day, today)
            for day, pending in sorted(settlements.items()):
                await _drop_settlements(connection, day, pending, today)
            # Of days whose events are there still, their rows are needed.
            events, _, seen = await _old_days(connection, before_day)
            for day in sorted(seen.keys() - events.keys()):
                await _drop_seen(connection, day, seen[day], today)
        except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError):
            # Somebody holds an old snapshot, or a lock: it is finished the next time.
            log.info("a day cannot be dropped yet: it is being read")
        except Exception as error:
            raise told(error) from None
        finally:
            with contextlib.suppress(Exception):
                await connection.close(timeout=2.0)


async def _old_days(connection: Connection, before_day: int) -> list[dict[int, bool]]:
    """The days before this one that have partitions, of each table; whether each is being detached."""
    found = [await partitions.existing(connection, table) for table in partitions.TABLES]
    return [{day: pending for day, pending in one.items() if day < before_day} for one in found]


async def _drop_events(connection: Connection, day: int, pending: bool, before_day: int, today: int) -> None:
    partition = partitions.name_of("event", day)
    if not pending:
        async with connection.transaction():
            if await connection.fetchval(_UNTRIED.format(partition=partition)):
                return
            await connection.execute(_KEEP_WAITING.format(partition=partition), day)
            await connection.execute(_KEEP_RECENT.format(partition=partition), day, before_day)
    await partitions.drop(connection, "event", day, pending)


async def _drop_settlements(connection: Connection, day: int, pending: bool, today: int) -> None:
    if not pending:
        await partitions.make(connection, today, today)
        await connection.execute(_KEEP_ATTEMPTS.format(partition=partitions.name_of("settlement", day)), today)
    await partitions.drop(connection, "settlement", day, pending)


async def _drop_seen(connection: Connection, day: int, pending: bool, today: int) -> None:
    if not pending:
        await partitions.make(connection, today, today)
        async with connection.transaction():
            await search_feed.hold(connection)
            await connection.execute(_KEEP_SEEN.format(partition=partitions.name_of("seen", day)), today)
    await partitions.drop(connection, "seen", day, pending)


async def _forget_some(connection: Connection, done_ms: int, dead_ms: int, removed_ms: int, audit_ms: int) -> bool:
    """Forget some rows; whether there may be more."""
    if not await connection.fetchval(_TRY):
        return False
    forgotten = [
        await connection.fetch(_OLD_LETTERS, dead_ms),
        await connection.fetch(_OLD_KEPT, done_ms, day_of(done_ms)),
        await connection.fetch(_OLD_REMOVALS, removed_ms),
        await connection.fetch(_OLD_SESSIONS, removed_ms),
        await connection.fetch(_OLD_JOBS, removed_ms),
        await connection.fetch(_OLD_SIGNALS),
    ]
    more = await audit.forget(connection, audit_ms, _STEP_ROWS)
    return more or any(len(rows) == _STEP_ROWS for rows in forgotten)


async def _forget_ids(connection: Connection, before_day: int) -> bool:
    """Forget ids, and keys of contents, of days whose events are gone."""
    if not await connection.fetchval(_TRY):
        return False
    oldest = min([before_day, *await partitions.existing(connection, "event")])
    # An hour's key may be needed a little after its hour, never before it.
    await connection.execute(_OLD_KEYS, (oldest - 1) * DAY_MS)
    return len(await connection.fetch(_OLD_IDS, oldest)) == _STEP_ROWS
