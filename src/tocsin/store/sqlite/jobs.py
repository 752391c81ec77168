"""Jobs on SQLite: bulk actions that outlive a restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from tocsin.store.audit_chain import Action, Change
from tocsin.store.cursors import NEWEST, number_of
from tocsin.store.records import ENDED, Cursor, Job, JobPage, JobState
from tocsin.store.sqlite.audit import SqliteAudit
from tocsin.store.sqlite.database import Database

_COLUMNS: Final = "id, kind, arguments, state, created_ms, changed_ms, position, done, skipped, total, error"
_CREATE: Final = f"INSERT INTO job({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, '', 0, 0, ?, '') RETURNING {_COLUMNS}"
_NEXT: Final = "SELECT id FROM job WHERE state = ? AND kind IN ({kinds}) ORDER BY seq LIMIT 1"
_SET_STATE: Final = f"UPDATE job SET state = ?, changed_ms = ? WHERE id = ? RETURNING {_COLUMNS}"
_PROGRESS: Final = (
    "UPDATE job SET position = ?, done = done + ?, skipped = skipped + ?, changed_ms = ? WHERE id = ? RETURNING state"
)
_FINISH: Final = f"UPDATE job SET state = ?, error = ?, changed_ms = ? WHERE id = ? RETURNING {_COLUMNS}"
_GET: Final = f"SELECT {_COLUMNS} FROM job WHERE id = ?"
_PAGE: Final = f"SELECT {_COLUMNS}, seq FROM job WHERE seq <= ? ORDER BY seq DESC LIMIT ?"
_TAKE_OVER: Final = "UPDATE job SET state = CASE state WHEN ? THEN ? WHEN ? THEN ? ELSE state END"


class SqliteJobs:
    """See `ports.Jobs`. One server runs them, so that who runs which is known from the state alone."""

    def __init__(
        self, database: Database, audit: SqliteAudit, *, wall_clock: Callable[[], float], random: Random
    ) -> None:
        self._database = database
        self._audit = audit
        self._wall_clock = wall_clock
        self._random = random

    async def start(self) -> None:
        """Those that a dead process was running are to be taken again; those that it was to stop have stopped."""
        states = (JobState.RUNNING, JobState.WAITING, JobState.STOPPING, JobState.STOPPED)
        await self._database.write(lambda driver: driver.execute(_TAKE_OVER, states))

    async def create(self, kind: str, arguments: bytes, *, total: int | None = None) -> Job:
        id, now_ms = f"job_{self._random.getrandbits(64):016x}", self._now_ms()
        values = (id, kind, arguments, JobState.WAITING, now_ms, now_ms, total)
        note = self._audit.recording()

        def create(driver: sqlite3.Connection) -> Job:
            if note is not None:
                note(driver, Change(Action.JOB_CREATE, id, {"kind": kind}))
            return _job(driver.execute(_CREATE, values).fetchone())

        return await self._database.write(create)

    async def take(self, kinds: Sequence[str]) -> Job | None:
        find = _NEXT.format(kinds=",".join("?" * len(kinds)))

        def take(driver: sqlite3.Connection) -> Job | None:
            found = driver.execute(find, (JobState.WAITING, *kinds)).fetchone()
            if found is None:
                return None
            return _job(driver.execute(_SET_STATE, (JobState.RUNNING, self._now_ms(), found[0])).fetchone())

        return await self._database.write(take)

    async def progress(self, id: str, position: str, *, done: int, skipped: int = 0) -> bool:
        values = (position, done, skipped, self._now_ms(), id)
        row = await self._database.write(lambda driver: driver.execute(_PROGRESS, values).fetchone())
        return row is not None and row[0] == JobState.RUNNING

    async def finish(self, id: str, error: str = "") -> Job:
        def finish(driver: sqlite3.Connection) -> Job:
            before = driver.execute(_GET, (id,)).fetchone()
            if before is None:
                raise KeyError(id)
            state = JobState.DONE
            if error:
                state = JobState.FAILED
            elif _job(before).state is JobState.STOPPING:
                state = JobState.STOPPED
            return _job(driver.execute(_FINISH, (state, error, self._now_ms(), id)).fetchone())

        return await self._database.write(finish)

    async def stop(self, id: str) -> bool:
        note = self._audit.recording()

        def stop(driver: sqlite3.Connection) -> bool:
            row = driver.execute(_GET, (id,)).fetchone()
            if row is None or _job(row).state in ENDED:
                return False
            # What nobody runs has nobody who could end it.
            state = JobState.STOPPED if _job(row).state is JobState.WAITING else JobState.STOPPING
            driver.execute(_SET_STATE, (state, self._now_ms(), id))
            if note is not None:
                note(driver, Change(Action.JOB_STOP, id, {"kind": _job(row).kind}))
            return True

        return await self._database.write(stop)

    async def get(self, id: str) -> Job | None:
        row = await self._database.read(lambda driver: driver.execute(_GET, (id,)).fetchone())
        return None if row is None else _job(row)

    async def page(self, limit: int, *, start: Cursor | None = None) -> JobPage:
        values = (NEWEST if start is None else number_of(start), limit + 1)
        found = await self._database.read(lambda driver: driver.execute(_PAGE, values).fetchall())
        following = Cursor(str(found[limit][-1])) if len(found) > limit else None
        return JobPage([_job(row[:-1]) for row in found[:limit]], following)

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _job(row: Any) -> Job:
    id, kind, arguments, state, *rest = row
    return Job(id, kind, bytes(arguments), JobState(state), *rest)
