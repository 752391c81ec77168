"""Drops the keys of hours that are past, so that whatever is left anywhere of settled contents cannot be read any more.

First a key is closed: nothing is encrypted by it from then on. Then what it has encrypted and is still needed is
encrypted by the key of this hour, in small steps: what nobody has tried, then what is parked, then dead letters, each
in the order of its number. That finds all of it, although events go on meanwhile: they go from one of these to a later
one, and a replay, which goes back, encrypts anew. At last the key is deleted, overwritten, and the log emptied.

Whatever ends it in between, it begins again: a key that is closed stays so.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tocsin.domain.events import EventId
from tocsin.store.content_keys import DROPPED_AFTER_MS
from tocsin.store.records import State
from tocsin.store.sqlite import rows
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.database import Database

_STEP_ROWS: Final = 500
_PAUSE_S: Final = 0.01
_CHECKPOINT_WAIT_MS: Final = 100

# A clock that was set back leaves keys from the future: they are dropped too, for no hour is theirs.
_OLD: Final = "until_ms <= ?1 OR from_ms > ?2"
_ANY: Final = f"SELECT EXISTS (SELECT 1 FROM content_key WHERE closed = 1 OR {_OLD})"
_CLOSE: Final = f"UPDATE content_key SET closed = 1 WHERE closed = 0 AND ({_OLD})"
_CLOSED: Final = "SELECT id FROM content_key WHERE closed = 1 ORDER BY id"
_LIVING: Final = "SELECT id FROM content_key"
_DROP: Final = "DELETE FROM content_key WHERE closed = 1 AND id IN (VALUES {rows})"
_CARRY: Final = (
    "WITH carried(seq, body, key) AS (VALUES {rows})"
    " UPDATE event SET body = carried.body, content_key_id = carried.key FROM carried WHERE event.seq = carried.seq"
)
_LARGEST_STEP_BYTES: Final = 8 * 1024 * 1024

# The numbers of what is not settled, in parts: an event goes from one of them to a later one.
_PARTS: Final = (
    f"SELECT seq FROM event INDEXED BY event_fresh WHERE state = {int(State.ACCEPTED)} AND urgent = 0",
    f"SELECT seq FROM event INDEXED BY event_fresh WHERE state = {int(State.ACCEPTED)} AND urgent = 1",
    "SELECT DISTINCT seq FROM parked WHERE TRUE",
    f"SELECT seq FROM event INDEXED BY event_dead WHERE state = {int(State.DEAD)}",
)


class Retiring:
    def __init__(self, database: Database, contents: Contents, *, wall_clock: Callable[[], float]) -> None:
        self._database = database
        self._contents = contents
        self._wall_clock = wall_clock
        self._closed: list[int] = []
        self._part = 0
        self._cursor = 0
        self._log_to_empty = False

    async def work(self, until: Callable[[], bool]) -> bool:
        """Go on until there is nothing more to do, or `until` says so; returns whether there is more to do."""
        if not self._closed and not await self._close():
            return await self._empty_log()
        while self._part < len(_PARTS):
            if until():
                return True
            await self._step()
            await asyncio.sleep(_PAUSE_S)
        closed = self._closed
        living = await self._database.write(lambda driver: _drop(driver, closed))
        self._contents.keys.keep_only(living)
        self._closed, self._log_to_empty = [], True
        return await self._empty_log()

    async def _close(self) -> bool:
        """Close what is old; whether there is a closed key."""
        now_ms = int(self._wall_clock() * 1000)
        old = (now_ms - DROPPED_AFTER_MS, now_ms + DROPPED_AFTER_MS)
        (any_old,) = await self._database.read(lambda driver: driver.execute(_ANY, old).fetchone())
        if not any_old:
            return False
        self._closed = await self._database.write(lambda driver: _close(driver, old))
        self._part = self._cursor = 0
        return bool(self._closed)

    async def _step(self) -> None:
        part, cursor = _PARTS[self._part], self._cursor
        carry = partial(_carry, contents=self._contents, closed=self._closed, numbers=part, after=cursor)
        reached = await self._database.write(lambda driver: carry(driver))
        if reached is None:
            self._part, self._cursor = self._part + 1, 0
        else:
            self._cursor = reached

    async def _empty_log(self) -> bool:
        """The log still has the dropped keys. Where somebody reads it, it is tried again at the next call."""
        if self._log_to_empty:
            self._log_to_empty = not await self._database.write_alone(empty_log)
        return False


def empty_log(driver: sqlite3.Connection) -> bool:
    """Write what is in the log into the file, and cut it off; whether nobody prevented it. It waits for nobody long."""
    (before,) = driver.execute("PRAGMA busy_timeout").fetchone()
    driver.execute(f"PRAGMA busy_timeout={_CHECKPOINT_WAIT_MS}").fetchone()
    try:
        busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        driver.execute(f"PRAGMA busy_timeout={before}").fetchone()
    return not busy


def _close(driver: sqlite3.Connection, old: tuple[int, int]) -> list[int]:
    driver.execute(_CLOSE, old)
    return [id for (id,) in driver.execute(_CLOSED)]


def _carry(
    driver: sqlite3.Connection, *, contents: Contents, closed: Sequence[int], numbers: str, after: int
) -> int | None:
    """Encrypt anew what follows `after`; returns how far it has looked, None where nothing follows."""
    window = f"SELECT max(seq) FROM ({numbers} AND seq > ? ORDER BY seq LIMIT ?)"
    last: int | None
    (last,) = driver.execute(window, (after, _STEP_ROWS)).fetchone()
    if last is None:
        return None
    which = f"content_key_id IN ({','.join(map(str, closed))}) AND seq IN ({numbers} AND seq > ?1 AND seq <= ?2)"
    found = driver.execute(f"SELECT seq, id, content_key_id, size FROM event WHERE {which} ORDER BY seq", (after, last))
    key, carried, taken = contents.current(driver), list[tuple[int, bytes, int]](), 0
    for seq, id, content_key, size in found.fetchall():
        if taken > _LARGEST_STEP_BYTES:
            last = carried[-1][0]
            break
        taken += size
        (body,) = driver.execute("SELECT CAST(body AS BLOB) FROM event WHERE seq = ?", (seq,)).fetchone()
        content = contents.open(driver, content_key, EventId(id), body)
        carried.append((seq, key.seal_one(EventId(id), content, contents.random), key.id))
    rows.execute(driver, _CARRY, carried)
    return last


def _drop(driver: sqlite3.Connection, closed: Sequence[int]) -> list[int]:
    """Returns the keys that are left."""
    rows.execute(driver, _DROP, [(id,) for id in closed])
    return [id for (id,) in driver.execute(_LIVING)]
