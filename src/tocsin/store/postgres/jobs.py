"""Jobs on PostgreSQL: bulk actions that outlive a restart, and the node that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from tocsin.store.audit_chain import Action, Change
from tocsin.store.cursors import NEWEST, number_of
from tocsin.store.postgres.audit import PostgresAudit
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.session import NODE_LOCKS
from tocsin.store.records import ENDED, Cursor, Job, JobPage, JobState

_COLUMNS: Final = "id, kind, arguments, state, created_ms, changed_ms, position, done, skipped, total, error"
_CREATE: Final = f"""INSERT INTO job(id, kind, arguments, state, created_ms, changed_ms, total)
    VALUES ($1, $2, $3, 'waiting', $4, $4, $5) RETURNING {_COLUMNS}"""
# A node lives as long as its session holds its lock.
_IS_ABANDONED: Final = f"""(node IS NULL OR NOT EXISTS (SELECT 1 FROM pg_locks held WHERE held.locktype = 'advisory'
    AND held.classid = {NODE_LOCKS} AND held.objid::bigint = job.node AND held.objsubid = 2 AND held.granted
    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())))"""
_STOP_ABANDONED: Final = (
    f"UPDATE job SET state = 'stopped', changed_ms = $1 WHERE state = 'stopping' AND {_IS_ABANDONED}"
)
_TAKE: Final = f"""UPDATE job SET state = 'running', changed_ms = $1, node = $2 WHERE seq = (
        SELECT seq FROM job WHERE kind = ANY($3::text[])
            AND (state = 'waiting' OR state = 'running' AND {_IS_ABANDONED})
        ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING {_COLUMNS}"""
_PROGRESS: Final = """UPDATE job SET position = $1, done = done + $2, skipped = skipped + $3, changed_ms = $4
    WHERE id = $5 AND (node IS NULL OR node = $6) RETURNING state"""
_SET_STATE: Final = f"UPDATE job SET state = $1, error = $2, changed_ms = $3 WHERE id = $4 RETURNING {_COLUMNS}"
_GET: Final = f"SELECT {_COLUMNS} FROM job WHERE id = $1"
_HELD: Final = f"SELECT {_COLUMNS}, node FROM job WHERE id = $1 FOR UPDATE"
_PAGE: Final = f"SELECT seq, {_COLUMNS} FROM job WHERE seq <= $1 ORDER BY seq DESC LIMIT $2"


class PostgresJobs:
    """See `ports.Jobs`."""

    def __init__(
        self,
        database: Database,
        node: Callable[[], int],
        now_ms: Callable[[], int],
        random: Random,
        audit: PostgresAudit,
    ) -> None:
        self._database = database
        self._node = node
        self._now_ms = now_ms
        self._random = random
        self._audit = audit

    async def create(self, kind: str, arguments: bytes, *, total: int | None = None) -> Job:
        values = (f"job_{self._random.getrandbits(64):016x}", kind, arguments, self._now_ms(), total)
        note = self._audit.recording()

        async def create(connection: Connection) -> Any:
            row = await connection.fetchrow(_CREATE, *values)
            await note(connection, Change(Action.JOB_CREATE, values[0], {"kind": kind}))
            return row

        return _job(await self._database.write(create))

    async def take(self, kinds: Sequence[str]) -> Job | None:
        now_ms = self._now_ms()

        async def take(connection: Connection) -> Any:
            await connection.execute(_STOP_ABANDONED, now_ms)
            return await connection.fetchrow(_TAKE, now_ms, self._node(), list(kinds))

        row = await self._database.write(take)
        return None if row is None else _job(row)

    async def progress(self, id: str, position: str, *, done: int, skipped: int = 0) -> bool:
        values = (position, done, skipped, self._now_ms(), id, self._node())
        state = await self._database.write(lambda one: one.fetchval(_PROGRESS, *values))
        return bool(state == JobState.RUNNING)

    async def finish(self, id: str, error: str = "") -> Job:
        async def finish(connection: Connection) -> Any:
            held = await connection.fetchrow(_HELD, id)
            if held is None:
                raise KeyError(id)
            *before, node = held
            if node not in (None, self._node()):
                return before
            state = JobState.DONE
            if error:
                state = JobState.FAILED
            elif _job(before).state is JobState.STOPPING:
                state = JobState.STOPPED
            return await connection.fetchrow(_SET_STATE, state, error, self._now_ms(), id)

        return _job(await self._database.write(finish))

    async def stop(self, id: str) -> bool:
        note = self._audit.recording()

        async def stop(connection: Connection) -> bool:
            row = await connection.fetchrow(f"{_GET} FOR UPDATE", id)
            if row is None or _job(row).state in ENDED:
                return False
            # What nobody runs has nobody who could end it.
            state = JobState.STOPPED if _job(row).state is JobState.WAITING else JobState.STOPPING
            await connection.execute(_SET_STATE, state, "", self._now_ms(), id)
            await note(connection, Change(Action.JOB_STOP, id, {"kind": _job(row).kind}))
            return True

        return await self._database.write(stop)

    async def get(self, id: str) -> Job | None:
        row = await self._database.read(lambda one: one.fetchrow(_GET, id))
        return None if row is None else _job(row)

    async def page(self, limit: int, *, start: Cursor | None = None) -> JobPage:
        newest = NEWEST if start is None else number_of(start)
        found = await self._database.read(lambda one: one.fetch(_PAGE, newest, limit + 1))
        following = Cursor(str(found[limit][0])) if len(found) > limit else None
        return JobPage([_job(tuple(row)[1:]) for row in found[:limit]], following)


def _job(row: Any) -> Job:
    id, kind, arguments, state, *rest = row
    return Job(id, kind, arguments, JobState(state), *rest)
