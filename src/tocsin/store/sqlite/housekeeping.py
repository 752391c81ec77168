"""Forgets what is old, in small steps that never stall delivery, and gives the room back to the file system.

Events are old when their retention has passed since they were settled. They lie in the order of their acceptance: a
step looks at some hundred that follow the ones it looked at last; it never searches from the start. What it passes over
because it is not settled, or not for long enough, is met again by the next sweep, which begins an hour after the last.

A wall clock that jumps ahead makes everything old at once. So after a jump nothing is forgotten for an hour: time to
set it right.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Final

import structlog
from msgspec import Struct

from tocsin.store.clock import ClockWatch
from tocsin.store.records import ENDED, Retention, State
from tocsin.store.sqlite import audit, rows, signals
from tocsin.store.sqlite.database import Database

log = structlog.get_logger(__name__)

_STEP_ROWS: Final = 500
_VACUUM_PAGES: Final = (10, 4000)
"""So many pages are given back in one step, at least and at most."""
_VACUUM_FOR_S: Final = 0.05
"""A step of the vacuum, during which nobody else writes, is to take no longer than this."""
_PAUSE_S: Final = 0.01
_SWEEP_EVERY_S: Final = 3600.0
_JUMP_MS: Final = 3600 * 1000
_AFTER_A_JUMP_S: Final = 3600.0
REMEMBERED_MS: Final = 24 * 3600 * 1000
"""An `event_id` is remembered at least this long, whatever the retention of receipts."""

# What is quarantined may be released yet, however old it is.
_FORGET_REMOVALS = (
    "DELETE FROM removal WHERE id IN (SELECT id FROM removal WHERE quarantined = 0 AND removed_ms < ? LIMIT ?)"
)
_FORGET_SESSIONS = "DELETE FROM session WHERE hash IN (SELECT hash FROM session WHERE expires_ms < ? LIMIT ?)"
_FORGET_JOBS = (
    "DELETE FROM job WHERE seq IN (SELECT seq FROM job"
    f" WHERE changed_ms < ? AND state IN ({', '.join(repr(str(state)) for state in sorted(ENDED))}) LIMIT ?)"
)
# Versions before 0006 have not noted when an event was settled: it was at its last receipt, which begins with its time.
_SETTLED_MS: Final = """coalesce(
        settled_ms,
        CASE WHEN json_valid('[' || attempts || ']') THEN json_extract('[' || attempts || ']', '$[#-1][0]') END,
        accepted_ms
    )"""
# Looked at only where an event may be old: these columns lie behind its content.
_WINDOW: Final = f"""SELECT seq, accepted_ms, CASE
        WHEN accepted_ms >= :accepted THEN 0
        WHEN state = {int(State.DONE)} THEN {_SETTLED_MS} < :done
        WHEN state = {int(State.DEAD)} THEN {_SETTLED_MS} < :dead
        ELSE 0 END
    FROM event WHERE seq > :cursor ORDER BY seq LIMIT {_STEP_ROWS}"""
_FORGET_EVENTS: Final = "DELETE FROM event WHERE seq IN (VALUES {rows})"
# Free pages are left for what comes next, up to a tenth of the file: only the rest goes back to the file system.
_SPARE_PAGES: Final = 1000


class _Before(Struct, frozen=True, kw_only=True):
    """What happened before these times is to be forgotten."""

    done_ms: int
    dead_ms: int
    removed_ms: int
    audit_ms: int


class Housekeeping:
    def __init__(
        self,
        database: Database,
        *,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._clock = ClockWatch(wall_clock, monotonic)
        self._cursor = 0
        self._next_sweep = 0.0
        self._not_before = 0.0
        self._vacuum_pages = 100

    async def prune(self, retention: Retention, *, for_s: float) -> bool:
        """Work for about `for_s`; returns whether there is more to do."""
        if self._clock.set_by_ms() > _JUMP_MS:
            self._not_before = self._monotonic() + _AFTER_A_JUMP_S
            log.warning("the wall clock was set forward by more than an hour: nothing is forgotten for an hour")
        if self._monotonic() < self._not_before:
            return False
        now_ms, until = int(self._wall_clock() * 1000), self._monotonic() + for_s
        before = _Before(
            done_ms=now_ms - max(int(retention.events_s * 1000), REMEMBERED_MS),
            dead_ms=now_ms - max(int(retention.dead_letters_s * 1000), REMEMBERED_MS),
            removed_ms=now_ms - int(retention.removals_s * 1000),
            audit_ms=now_ms - int(retention.audit_s * 1000),
        )
        if self._monotonic() >= self._next_sweep:
            self._cursor, self._next_sweep = 0, self._monotonic() + _SWEEP_EVERY_S
        while await self._step(before, now_ms):
            if self._monotonic() >= until:
                return True
            await asyncio.sleep(_PAUSE_S)
        return False

    async def _step(self, before: _Before, now_ms: int) -> bool:
        cursor = self._cursor

        def step(driver: sqlite3.Connection) -> tuple[int, bool]:
            after, more = _forget_events(driver, cursor, before, now_ms)
            for forget in (_FORGET_REMOVALS, _FORGET_SESSIONS, _FORGET_JOBS):
                more |= driver.execute(forget, (before.removed_ms, _STEP_ROWS)).rowcount == _STEP_ROWS
            more |= signals.forget(driver, now_ms)
            more |= audit.forget(driver, before.audit_ms, _STEP_ROWS)
            return after, more

        self._cursor, more = await self._database.write(step)
        return await self._vacuum() or more

    async def _vacuum(self) -> bool:
        """Give some pages back, as many as the step before lets expect to take its time; whether there are more."""
        pages = self._vacuum_pages

        def vacuum(driver: sqlite3.Connection) -> tuple[int, float]:
            started = self._monotonic()
            return _give_back(driver, pages), self._monotonic() - started

        excess, took_s = await self._database.write_alone(vacuum)
        least, most = _VACUUM_PAGES
        if took_s > _VACUUM_FOR_S:
            self._vacuum_pages = max(least, int(pages * _VACUUM_FOR_S / took_s / 2))
        elif excess >= pages and took_s < _VACUUM_FOR_S / 2:
            self._vacuum_pages = min(most, 2 * pages)
        return excess > pages


def _forget_events(driver: sqlite3.Connection, cursor: int, before: _Before, now_ms: int) -> tuple[int, bool]:
    """Returns how far it has looked, and whether there is more that may be old.

    The newest event stays: its number must not be given out again. Events were accepted in order, and none is settled
    before: so a window in which none was accepted long enough ago ends the search. One from the future was accepted by
    a clock that jumped: it says nothing about others.
    """
    accepted_ms = max(before.done_ms, before.dead_ms)
    asked = {"cursor": cursor, "accepted": accepted_ms, "done": before.done_ms, "dead": before.dead_ms}
    window = driver.execute(_WINDOW, asked).fetchall()
    if len(window) < 2:
        return cursor, False
    (newest,) = driver.execute("SELECT max(seq) FROM event").fetchone()
    looked_at = [(seq, old) for seq, accepted, old in window if accepted < accepted_ms and seq < newest]
    if not looked_at:
        all_ahead = all(accepted > now_ms for _, accepted, _ in window)
        return (window[-1][0], window[-1][0] < newest) if all_ahead else (cursor, False)
    rows.execute(driver, _FORGET_EVENTS, [(seq,) for seq, old in looked_at if old])
    return looked_at[-1][0], len(window) == _STEP_ROWS


def _give_back(driver: sqlite3.Connection, most: int) -> int:
    """Give up to `most` pages back to the file system; how many there were to give back."""
    (free,) = driver.execute("PRAGMA freelist_count").fetchone()
    (pages,) = driver.execute("PRAGMA page_count").fetchone()
    excess: int = free - max(_SPARE_PAGES, pages // 10)
    if excess > 0:
        # The pragma yields a row without columns for each page. Before Python 3.12 `fetchall` ends at the first of
        # them, so one page was freed. `executescript` steps to the end on every version, without the GIL, in a
        # transaction of its own: it would commit one that is open.
        driver.executescript(f"PRAGMA incremental_vacuum({min(excess, most)})")
    return excess
