"""The statements of `append`: one for a batch whose ids are all new, a transaction for one in which some are known.

A repeat that finds its rows would write nothing, and its commit would not wait for the standby: what it says is on
record could be lost. So it writes a message into the log of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import asyncpg

from tocsin.domain.events import URGENT, Event, EventId
from tocsin.store.appending import Append, KnownId, unknown
from tocsin.store.ports import EventIdConflict
from tocsin.store.postgres import partitions
from tocsin.store.postgres.backlog import PostgresBacklog
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.contents import Contents
from tocsin.store.postgres.places import DAY_MS, log_of
from tocsin.store.postgres.wakes import Wakes

# Ids in their own order: two processes that append the same ones at once wait for each other, and do not deadlock.
_INSERT: Final = """WITH given AS (
        SELECT * FROM unnest($2::smallint[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::bigint[], $8::int[],
            $9::bytea[], $10::bytea[]) WITH ORDINALITY
            AS t(stream, id, owner, message, accepted_ms, expires_ms, size, body, digest, n)
    ), ids AS (
        INSERT INTO event_id(id, digest, day, stream, xid)
        SELECT id, digest, $1, stream, pg_current_xact_id()::text::bigint FROM given ORDER BY id
    ), events AS (
        INSERT INTO event(day, stream, xid, id, owner, message, accepted_ms, expires_ms, size, content_key, body)
        SELECT $1, stream, pg_current_xact_id()::text::bigint, id, owner, message, accepted_ms, expires_ms, size,
            $11::bigint, body
        FROM given ORDER BY n
    )
    SELECT pg_current_xact_id()::text::bigint"""
_KNOWN: Final = "SELECT id::text, digest FROM event_id WHERE id = ANY($1::uuid[])"
_REPEATED: Final = "SELECT pg_logical_emit_message(true, 'tocsin', 'repeated')"
_ATTEMPTS: Final = 5


class PostgresInserts:
    """See `store.appending.Inserts`."""

    def __init__(
        self, database: Database, backlog: PostgresBacklog, wakes: Wakes, clock: DatabaseClock, contents: Contents
    ) -> None:
        self._database = database
        self._backlog = backlog
        self._wakes = wakes
        self._clock = clock
        self._contents = contents
        self._xid = 0

    def refuse(self) -> None:
        """Nothing is refused beforehand: the database says whether it takes it."""

    async def known(self, ids: Sequence[EventId]) -> Iterable[str]:
        return await self._database.read(lambda one: known_ids(one, ids))

    async def insert(self, appends: Sequence[Append]) -> None:
        day = self._clock.now_ms() // DAY_MS
        events = [event for append in appends for event in append.events]
        if not events:
            return
        values = await self.values(events)
        try:
            self._xid = await partitions.made_where_missing(
                self._database,
                day,
                lambda: self._database.statement(lambda one: one.fetchval(_INSERT, day, *values)),
            )
        except asyncpg.UniqueViolationError:
            raise KnownId from None
        for append in appends:
            append.inserted = [(log_of(event.owner), event) for event in append.events]

    async def insert_unknown(self, appends: Sequence[Append]) -> None:
        await self._contents.ready()
        for attempt in range(_ATTEMPTS):
            for append in appends:
                append.inserted, append.error = [], None
            day = self._clock.now_ms() // DAY_MS
            try:
                job = partial(self._insert_unknown, appends=appends, day=day)
                await partitions.made_where_missing(self._database, day, partial(self._database.write, job))
                return
            except asyncpg.UniqueViolationError:
                # Another process has appended the same id between the look and the insertion.
                if attempt == _ATTEMPTS - 1:
                    raise

    def inserted(self, append: Append) -> None:
        self._backlog.appended(self._xid, len(append.inserted), sum([len(event.body) for _, event in append.inserted]))
        self._wakes.appended({log for log, _ in append.inserted})

    async def values(self, events: Sequence[Event]) -> tuple[Any, ...]:
        """What the insertion of these events takes, after their day."""
        digests = await self._contents.digests()
        key_id, sealed = await self._contents.seal(events)
        return (*_columns(events), sealed, digests.of([event.body for event in events]), key_id)

    async def _insert_unknown(self, connection: Connection, appends: Sequence[Append], day: int) -> None:
        ids = [event.id for append in appends for event in append.events]
        known = await known_ids(connection, ids)
        digests = await self._contents.digests()
        fresh: list[Event] = []
        for append in appends:
            try:
                own = unknown(append.events, known, digests.of_one)
            except EventIdConflict as conflict:
                append.error = conflict
                continue
            append.inserted = [(log_of(event.owner), event) for event in own]
            fresh += own
        await connection.execute(_REPEATED)
        if fresh:
            self._xid = await connection.fetchval(_INSERT, day, *await self.values(fresh))


async def known_ids(connection: Connection, ids: Sequence[EventId]) -> dict[str, bytes]:
    """Those that are on record, with the digests of their contents."""
    return dict(await connection.fetch(_KNOWN, ids))


def _columns(events: Sequence[Event]) -> tuple[list[Any], ...]:
    return (
        [2 * log_of(event.owner) + (event.message in URGENT) for event in events],
        [event.id for event in events],
        [event.owner for event in events],
        [event.message for event in events],
        [event.accepted_ms for event in events],
        [event.expires_ms for event in events],
        [len(event.body) for event in events],
    )
