"""Forgets what is old: whole days of events and settlements with their partitions (old_days.py), the rest in small
steps.

An event is forgotten when its retention has passed since it was settled. Its partition goes when nothing in it is
needed: what waits, and what was settled late, is copied to `kept` before. What nobody has tried yet keeps its
partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import structlog

from tocsin.store.clock import ClockWatch
from tocsin.store.postgres import audit, old_days, old_ids, partitions
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database, Target
from tocsin.store.postgres.horizons import Horizons
from tocsin.store.postgres.places import DAY_MS, day_of
from tocsin.store.postgres.schema import LOCK_SPACE
from tocsin.store.records import ENDED, Retention

log = structlog.get_logger(__name__)

_STEP_ROWS: Final = 500
_PAUSE_S: Final = 0.01
_JUMP_MS: Final = 3600 * 1000
_AFTER_A_JUMP_S: Final = 3600.0
_TRY: Final = f"SELECT pg_try_advisory_xact_lock({LOCK_SPACE}, {old_days.PRUNING})"
# A dead letter whose time is over is done, and was for ever: its event may still lie in its partition.
_OLD_LETTERS: Final = f"""UPDATE kept SET dead = false, settled_ms = 0, body = ''::bytea
    WHERE (stream, xid, seq) IN (SELECT stream, xid, seq FROM kept WHERE dead AND settled_ms IS NOT NULL
        AND settled_ms < $1 LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_KEPT: Final = f"""DELETE FROM kept WHERE (stream, xid, seq) IN (SELECT stream, xid, seq FROM kept
    WHERE NOT dead AND settled_ms IS NOT NULL AND settled_ms < $1 AND day < $2 LIMIT {_STEP_ROWS}) RETURNING id::text"""
# What is quarantined may be released yet, however old it is.
_OLD_REMOVALS: Final = f"""DELETE FROM removal WHERE id IN (SELECT id FROM removal WHERE NOT quarantined
    AND removed_ms < $1 LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_SESSIONS: Final = f"""DELETE FROM session WHERE hash IN (SELECT hash FROM session WHERE expires_ms < $1
    LIMIT {_STEP_ROWS}) RETURNING 1"""
_OLD_JOBS: Final = f"""DELETE FROM job WHERE seq IN (SELECT seq FROM job
    WHERE changed_ms < $1 AND state IN ({", ".join(repr(str(state)) for state in sorted(ENDED))})
    LIMIT {_STEP_ROWS}) RETURNING 1"""
# Of the oldest some: no index has their times.
_OLD_SIGNALS: Final = f"""DELETE FROM signal WHERE id = ANY(ARRAY(SELECT id FROM (
        SELECT id, at FROM signal ORDER BY id LIMIT {_STEP_ROWS}) AS oldest
    WHERE at < clock_timestamp() - interval '1 day')) RETURNING 1"""
_OLD_KEYS: Final = """DELETE FROM content_key WHERE until_ms < $1
    AND NOT EXISTS (SELECT 1 FROM kept WHERE kept.content_key = content_key.id)"""

_Forget = Callable[[Connection], Awaitable[bool]]
"""Forgets some rows of one kind; whether there may be more."""


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
        self._old_days = old_days.OldDays(session_target, monotonic)
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
        done_ms = now_ms - max(int(retention.events_s * 1000), old_days.REMEMBERED_MS)
        dead_ms = now_ms - max(int(retention.dead_letters_s * 1000), old_days.REMEMBERED_MS)
        removed_ms = now_ms - int(retention.removals_s * 1000)
        audit_ms = now_ms - int(retention.audit_s * 1000)
        await self._database.write(lambda one: self._horizons.write(one, done_ms, dead_ms))
        kinds: list[_Forget] = [
            partial(_forget, statement=_OLD_LETTERS, before_ms=dead_ms),
            partial(_forget_kept, done_ms=done_ms),
            partial(_forget, statement=_OLD_REMOVALS, before_ms=removed_ms),
            partial(_forget, statement=_OLD_SESSIONS, before_ms=removed_ms),
            partial(_forget, statement=_OLD_JOBS, before_ms=removed_ms),
            _forget_signals,
            partial(audit.forget, before_ms=audit_ms, most=_STEP_ROWS),
        ]
        while await self._forget_some(kinds):
            if self._monotonic() >= until:
                return True
            await asyncio.sleep(_PAUSE_S)
        before_day = day_of(done_ms)
        if any(await self._database.read(lambda one: old_days.old_days(one, before_day))):
            await self._old_days.drop(before_day, day_of(now_ms))
        while await self._database.write(lambda one: _forget_ids(one, before_day)):
            if self._monotonic() >= until:
                return True
            await asyncio.sleep(_PAUSE_S)
        return False

    async def _forget_some(self, kinds: Sequence[_Forget]) -> bool:
        """Forget some of each kind, in a transaction of its own: while one lasts that has written something, no log is
        read beyond it. Returns whether there may be more."""
        more = False
        for forget in kinds:
            more |= await self._database.write(partial(_in_turn, forget=forget))
        return more


async def _in_turn(connection: Connection, forget: _Forget) -> bool:
    """Do it where no other node is forgetting something just now."""
    return bool(await connection.fetchval(_TRY)) and await forget(connection)


async def _forget(connection: Connection, statement: str, before_ms: int) -> bool:
    return len(await connection.fetch(statement, before_ms)) == _STEP_ROWS


async def _forget_kept(connection: Connection, done_ms: int) -> bool:
    kept = await connection.fetch(_OLD_KEPT, done_ms, day_of(done_ms))
    if kept:
        await old_ids.forget_these(connection, [id for (id,) in kept], await _oldest(connection, day_of(done_ms)))
    return len(kept) == _STEP_ROWS


async def _forget_signals(connection: Connection) -> bool:
    return len(await connection.fetch(_OLD_SIGNALS)) == _STEP_ROWS


async def _forget_ids(connection: Connection, before_day: int) -> bool:
    """Forget ids, and keys of contents, of days whose events are gone."""
    if not await connection.fetchval(_TRY):
        return False
    oldest = await _oldest(connection, before_day)
    # An hour's key may be needed a little after its hour, never before it.
    await connection.execute(_OLD_KEYS, (oldest - 1) * DAY_MS)
    return await old_ids.forget(connection, oldest)


async def _oldest(connection: Connection, before_day: int) -> int:
    """The events of all days before this one are gone."""
    return min([before_day, *await partitions.existing(connection, "event")])
