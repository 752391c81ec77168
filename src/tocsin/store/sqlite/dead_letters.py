"""DeadLetters on SQLite: what ended in `refused` or `expired`, until it is replayed, discarded or forgotten."""

from __future__ import annotations

import builtins
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.ports import (
    DEAD_LETTER,
    Attempt,
    DeadLetter,
    DeadLetterPage,
    EventRecord,
    Item,
    Parked,
    State,
)
from tocsin.store.sqlite import queue_sql, rows
from tocsin.store.sqlite.database import Database, raw
from tocsin.store.sqlite.queue import SqliteQueue

_STEP: Final = 200
_NO_LANE: Final = "replay"
"""Where a delivery waits that never had a lane: it expired before it was given one. It gets its lane when claimed."""

_COLUMNS: Final = "seq, id, owner, message, accepted_ms, expires_ms, body, attempts"
_PAGE: Final = f"SELECT {_COLUMNS} FROM event WHERE state = 3 AND seq <= ? ORDER BY seq DESC LIMIT ?"
_ONE: Final = f"SELECT {_COLUMNS} FROM event WHERE state = 3 AND id = ?"
_REVIVE: Final = "UPDATE event SET state = 1, dead = 0, waiting = ?, expires_ms = ? WHERE seq = ?"
_DISCARD: Final = "UPDATE event SET state = 2, dead = 0, body = NULL WHERE seq IN (VALUES {rows})"
_TALLY: Final = (
    "INSERT INTO housekeeping(name, number) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET number = number + ?2"
)
_NEWEST: Final = 2**62

_Row = tuple[int, Event, list[Attempt]]


class SqliteDeadLetters:
    """See `ports.DeadLetters`."""

    def __init__(self, database: Database, queue: SqliteQueue, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._queue = queue
        self._wall_clock = wall_clock

    async def list(self, limit: int, *, start: int | None = None) -> DeadLetterPage:
        def read(driver: sqlite3.Connection) -> DeadLetterPage:
            found = _page(driver, _NEWEST if start is None else start, limit + 1)
            letters = [DeadLetter(event, _dead_devices(attempts)) for _, event, attempts in found[:limit]]
            return DeadLetterPage(letters, found[limit][0] if len(found) > limit else None)

        return await self._database.read(lambda connection: read(raw(connection)))

    async def count(self) -> int:
        def read(driver: sqlite3.Connection) -> int:
            number: int
            (number,) = driver.execute("SELECT count(*) FROM event INDEXED BY event_dead WHERE state = 3").fetchone()
            return number

        return await self._database.read(lambda connection: read(raw(connection)))

    async def explain(self, event_id: EventId) -> EventRecord | None:
        record = await self._queue.record(event_id)
        return record if record is not None and record.state is State.DEAD else None

    async def replay(self, ids: Sequence[EventId] | None, lifetime_ms: int) -> int:
        return await self._in_steps(ids, lambda driver, found: self._revive(driver, found, lifetime_ms))

    async def discard(self, ids: Sequence[EventId] | None) -> int:
        return await self._in_steps(
            ids, lambda driver, found: rows.execute(driver, _DISCARD, [(seq,) for seq, _, _ in found])
        )

    def _revive(self, driver: sqlite3.Connection, found: builtins.list[_Row], lifetime_ms: int) -> None:
        now_ms = int(self._wall_clock() * 1000)
        revived = size = 0
        for seq, event, attempts in found:
            by_lane: dict[str, builtins.list[str]] = {}
            for attempt in _dead_devices(attempts):
                by_lane.setdefault(attempt.lane or _NO_LANE, []).append(attempt.device)
            if not by_lane:
                # Whoever once refused it has it by now: nobody is left to deliver to.
                rows.execute(driver, _DISCARD, [(seq,)])
                continue
            again = Event(event.id, event.owner, event.message, event.accepted_ms, now_ms + lifetime_ms, event.body)
            parked = [Parked(lane, now_ms, 0, tuple(devices)) for lane, devices in by_lane.items()]
            queue_sql.park(driver, Item(again, seq, 0), parked, now_ms)
            driver.execute(_REVIVE, (len(parked), again.expires_ms, seq))
            revived, size = revived + 1, size + len(event.body)
        driver.execute(_TALLY, ("revived_events", revived))
        driver.execute(_TALLY, ("revived_bytes", size))

    async def _in_steps(
        self, ids: Sequence[EventId] | None, act: Callable[[sqlite3.Connection, builtins.list[_Row]], None]
    ) -> int:
        """Act on those of `ids` that are dead letters (None: on all of them), some in each transaction."""
        acted = 0
        if ids is not None:
            for begin in range(0, len(ids), _STEP):
                named = ids[begin : begin + _STEP]
                acted += len(await self._step(partial(_named, ids=named), act))
            return acted
        start = _NEWEST
        while start >= 0:
            found = await self._step(partial(_page, start=start, limit=_STEP), act)
            acted += len(found)
            start = found[-1] - 1 if found else -1
        return acted

    async def _step(
        self,
        find: Callable[[sqlite3.Connection], builtins.list[_Row]],
        act: Callable[[sqlite3.Connection, builtins.list[_Row]], None],
    ) -> builtins.list[int]:
        def step(driver: sqlite3.Connection) -> tuple[builtins.list[int], queue_sql.Seen]:
            found = find(driver)
            act(driver, found)
            return [seq for seq, _, _ in found], queue_sql.look(driver)

        seqs, seen = await self._database.write(lambda connection: step(raw(connection)))
        # The server's own queue learns at once, another process's when it notices the change.
        await self._queue.learn(seen)
        return seqs


def _page(driver: sqlite3.Connection, start: int, limit: int) -> list[_Row]:
    return [_row(*row) for row in driver.execute(_PAGE, (start, limit)).fetchall()]


def _named(driver: sqlite3.Connection, ids: Sequence[EventId]) -> list[_Row]:
    return [_row(*row) for id in dict.fromkeys(ids) for row in driver.execute(_ONE, (id,)).fetchall()]


def _row(
    seq: int, id: str, owner: str, message: str, accepted: int, expires: int, body: str | None, attempts: str | None
) -> _Row:
    event = Event(EventId(id), UserId(owner), message, accepted, expires, (body or "").encode())
    return seq, event, queue_sql.attempts_of(attempts)


def _dead_devices(attempts: list[Attempt]) -> list[Attempt]:
    """The last attempt of each device that ended in a dead letter, in order of the attempts."""
    last: dict[str, Attempt] = {}
    for attempt in attempts:
        last.pop(attempt.device, None)
        last[attempt.device] = attempt
    return [attempt for attempt in last.values() if attempt.result in DEAD_LETTER]
