"""A store that moves to PostgreSQL from another engine: rows come in, in steps, and are read back to be compared.

A move has a number, which its source has, too. While it is under way nobody opens the store: `meta` says so. Each step
is a transaction with its rows and how far it has come, so a move that was killed goes on there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import msgspec

from tocsin.store.moved_rows import PARTS, PLAIN, POSITIONS, TRIED, UNTRIED, EventRow
from tocsin.store.naming import public_name
from tocsin.store.ports import StoreError, WriteFailure
from tocsin.store.postgres import partitions, schema
from tocsin.store.postgres.clock import NOW_MS
from tocsin.store.postgres.connections import Connection, Target, Watched, in_transaction
from tocsin.store.postgres.failures import is_gone, is_unavailable, sentence
from tocsin.store.postgres.hosts import Hosts
from tocsin.store.postgres.opening import connected
from tocsin.store.postgres.places import DAY_MS, day_of, stream_of
from tocsin.store.postgres.positions import PREFIX
from tocsin.store.postgres.schema import MOVING
from tocsin.store.postgres.session import NODE_LOCKS

_MOVED: Final = "moved"
"""What `meta` has after a move, with the number of the move."""
_LONGEST_S: Final = 3600.0
_OLDEST_DAYS: Final = 60
"""Events that are older, or were accepted in the future, lie in the partition at the end of that time."""

_META: Final = "SELECT name, value FROM meta WHERE name = ANY($1::text[])"
_SET_META: Final = """INSERT INTO meta(name, value) VALUES ($1, $2)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value"""
_FORGET_META: Final = "DELETE FROM meta WHERE name = ANY($1::text[])"
_NODES: Final = f"""SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = {NODE_LOCKS}
    AND objsubid = 2 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""
_WHERE_IT_IS: Final = {POSITIONS: f"meta WHERE name LIKE '{PREFIX}%'"}
_TABLES: Final = (
    *(plain.table for plain in PLAIN if plain.table != POSITIONS),
    "event",
    "event_id",
    "settlement",
    "parked",
    "kept",
)

_NUMBERS: Final = """SELECT pg_current_xact_id()::text::bigint, array_agg(n) FROM (
    SELECT nextval('event_seq') AS n FROM generate_series(1, $1)) AS numbers"""
_EVENT_COLUMNS: Final = (
    ("day", "int"),
    ("stream", "smallint"),
    ("xid", "bigint"),
    ("seq", "bigint"),
    ("id", "uuid"),
    ("owner", "uuid"),
    ("message", "text"),
    ("accepted_ms", "bigint"),
    ("expires_ms", "bigint"),
    ("size", "int"),
    ("content_key", "bigint"),
    ("body", "bytea"),
)
_PLACE: Final = (("stream", "smallint"), ("xid", "bigint"), ("seq", "bigint"), ("day", "int"))
_ID_COLUMNS: Final = (
    ("id", "uuid"),
    ("digest", "bytea"),
    ("day", "int"),
    ("stream", "smallint"),
    ("xid", "bigint"),
)
_SETTLEMENT_COLUMNS: Final = (
    ("stream", "smallint"),
    ("xid", "bigint"),
    ("seq", "bigint"),
    ("event_day", "int"),
    ("day", "int"),
    ("unit", "bigint"),
    ("at_ms", "bigint"),
    ("attempts", "text"),
)
_KEPT_COLUMNS: Final = (
    *_EVENT_COLUMNS,
    ("round", "int"),
    ("dead", "bool"),
    ("settled_ms", "bigint"),
)
_PARKED_COLUMNS: Final = (
    *_PLACE,
    ("lane", "text"),
    ("due_ms", "bigint"),
    ("expires_ms", "bigint"),
    ("tries", "int"),
    ("round", "int"),
    ("size", "int"),
    ("targets", "text"),
)
_BACK: Final = """SELECT e.id::text, e.owner::text, e.message, e.stream & 1 = 1, e.accepted_ms, e.expires_ms, e.size,
        i.digest, coalesce(k.body, e.body), CASE WHEN k.id IS NULL THEN e.content_key ELSE k.content_key END,
        s.attempts, coalesce(k.round, 0), coalesce(k.dead, false),
        CASE WHEN p.rows IS NOT NULL THEN NULL WHEN k.id IS NULL THEN s.at_ms ELSE k.settled_ms END,
        coalesce(p.rows, '[]')
    FROM event AS e JOIN event_id AS i ON i.id = e.id AND i.day = e.day AND i.stream = e.stream AND i.xid = e.xid
    LEFT JOIN kept AS k ON k.stream = e.stream AND k.xid = e.xid AND k.seq = e.seq
    LEFT JOIN settlement AS s ON s.stream = e.stream AND s.xid = e.xid AND s.seq = e.seq AND s.unit = 0
    LEFT JOIN (SELECT stream, xid, seq, json_agg(
            json_build_array(lane, due_ms, expires_ms, tries, targets) ORDER BY id)::text AS rows
        FROM parked GROUP BY stream, xid, seq) AS p ON p.stream = e.stream AND p.xid = e.xid AND p.seq = e.seq
    WHERE (s.seq IS NULL) = $1"""
# What was tried lies below the transaction with which the rest began: no takeover has to look at it.
_BEGAN: Final = """SELECT coalesce((SELECT value FROM meta WHERE name = 'untried from'),
    pg_current_xact_id()::text::bigint)"""
_SET_LOW: Final = "UPDATE low_water SET day = $1, xid = $2, seq = 0"
_OLDEST_DAY: Final = "SELECT coalesce(min(day), $2) FROM event WHERE xid >= $1"

_decode_parked = msgspec.json.Decoder(list[tuple[str, int, int, int, str]]).decode


class ArrivingStore:
    """The target of a move. Its tables are there."""

    def __init__(self, name: str, watched: Watched) -> None:
        self.name = name
        self._watched = watched
        self._connection = watched.connection
        self._days: set[int] = set()
        self._today = 0

    # -- life ----------------------------------------------------------------------------------------------------------

    async def is_complete(self, move: int) -> bool:
        """Whether this move has ended here."""
        return dict(await self._connection.fetch(_META, [_MOVED])).get(_MOVED) == move

    async def begin(self, move: int) -> None:
        """Begin, or go on where this move was.

        Raises:
            StoreError: the database is used, or is not empty.
        """
        connection = self._connection
        found = dict(await connection.fetch(_META, [MOVING])).get(MOVING)
        if found is None:
            filled = [name for name in _TABLES if await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {name})")]
            if filled:
                raise StoreError(
                    f"{self.name}: is not empty (there are rows in {', '.join(filled)}): name an empty database"
                )
            await connection.execute(_SET_META, MOVING, move)
        elif found != move:
            raise StoreError(
                f"{self.name}: another store is being moved to this database, or this move was taken back: name an"
                " empty one"
            )
        # A server that has looked for the mark before it was there has its lock by now, or sees the mark when it has.
        if await connection.fetchval(_NODES):
            if found is None:
                await connection.execute(_FORGET_META, [MOVING])
            raise StoreError(f"{self.name}: a tocsin server is using this database; stop all of them first")
        self._today = day_of(await connection.fetchval(NOW_MS))

    async def reached(self, part: str) -> int | None:
        """The number of the last row of a part that is here."""
        found: int | None = dict(await self._connection.fetch(_META, [f"moved {part}"])).get(f"moved {part}")
        return found

    async def finish(self, move: int) -> None:
        """From now on the store may be used."""

        async def finish(connection: Connection) -> None:
            began = await connection.fetchval(_BEGAN)
            oldest = await connection.fetchval(_OLDEST_DAY, began, self._today)
            await connection.execute(_SET_LOW, oldest, began)
            await connection.execute(_FORGET_META, [MOVING, "untried from", *(f"moved {part}" for part in PARTS)])
            await connection.execute(_SET_META, _MOVED, move)

        await in_transaction(self._watched, finish)
        # What the planner knows of the tables is of when they were empty.
        await self._connection.execute("ANALYZE", timeout=_LONGEST_S)

    # -- rows in -------------------------------------------------------------------------------------------------------

    async def write(self, part: str, rows: Sequence[Any], reached: int) -> None:
        """Add rows of a part, and note that it has come to this number."""
        if part in (TRIED, UNTRIED):
            await self._make_days({self._day(row.accepted_ms) for row in rows} | {self._today})

        async def write(connection: Connection) -> None:
            if part == UNTRIED:
                await connection.execute(
                    "INSERT INTO meta(name, value) VALUES ('untried from', pg_current_xact_id()::text::bigint)"
                    " ON CONFLICT DO NOTHING"
                )
            if part in (TRIED, UNTRIED):
                await self._write_events(connection, rows)
            else:
                plain = next(one for one in PLAIN if one.table == part)
                await _insert(connection, "meta" if part == POSITIONS else part, plain.columns, rows)
            await connection.execute(_SET_META, f"moved {part}", reached)

        await in_transaction(self._watched, write)

    async def _write_events(self, connection: Connection, rows: Sequence[EventRow]) -> None:
        xid, numbers = await connection.fetchrow(_NUMBERS, len(rows))
        events, ids, settlements, kept, parked = [], [], [], [], []
        for row, seq in zip(rows, numbers, strict=True):
            day, stream = self._day(row.accepted_ms), stream_of(row.owner, row.urgent)
            header = (row.id, row.owner, row.message, row.accepted_ms, row.expires_ms, row.size)
            content = (row.content_key, row.body)
            is_kept = row.dead or row.round > 0
            events.append((day, stream, xid, seq, *header, *((None, b"") if is_kept else content)))
            ids.append((row.id, row.digest, day, stream, xid))
            if is_kept:
                kept.append((day, stream, xid, seq, *header, *content, row.round, row.dead, row.settled_ms))
            if row.attempts is not None:
                at_ms = row.accepted_ms if row.settled_ms is None else row.settled_ms
                settlements.append((stream, xid, seq, day, self._today, 0, at_ms, row.attempts))
            for lane, due_ms, expires_ms, tries, targets in row.parked:
                where = (stream, xid, seq, day)
                parked.append((*where, lane, due_ms, expires_ms, tries, row.round, row.size, targets))
        await _insert(connection, "event", _EVENT_COLUMNS, events)
        await _insert(connection, "event_id", _ID_COLUMNS, ids)
        await _insert(connection, "settlement", _SETTLEMENT_COLUMNS, settlements)
        await _insert(connection, "kept", _KEPT_COLUMNS, kept)
        await _insert(connection, "parked", _PARKED_COLUMNS, parked)

    def _day(self, accepted_ms: int) -> int:
        return min(max(accepted_ms // DAY_MS, self._today - _OLDEST_DAYS), self._today)

    async def _make_days(self, days: set[int]) -> None:
        for day in sorted(days - self._days):
            async with self._connection.transaction():
                await partitions.make(self._connection, day, day)
            self._days.add(day)

    # -- rows back -----------------------------------------------------------------------------------------------------

    async def rows(self, part: str) -> AsyncIterator[list[Any]]:
        """All rows of a part, some at a time, as they were given."""
        if part in (TRIED, UNTRIED):
            statement, values = _BACK, [part == UNTRIED]
        else:
            plain = next(one for one in PLAIN if one.table == part)
            columns = ", ".join(f"{name}::text" if kind == "uuid" else name for name, kind in plain.columns)
            statement, values = f"SELECT {columns} FROM {_WHERE_IT_IS.get(part, part)}", []
        async with self._connection.transaction(readonly=True):
            cursor = await self._connection.cursor(statement, *values, timeout=_LONGEST_S)
            while found := await cursor.fetch(500, timeout=_LONGEST_S):
                if part in (TRIED, UNTRIED):
                    yield [EventRow(*[*values, _decode_parked(parked)]) for *values, parked in found]
                else:
                    yield [tuple(row) for row in found]


@asynccontextmanager
async def arriving(url: str, password: str | None) -> AsyncIterator[ArrivingStore]:
    """The target at `url`, for whoever moves a store there; its tables are made where they are missing.

    Raises:
        StoreError: it cannot be reached, or is lost on the way.
    """
    name = public_name(url)
    watched = await connected(Target(url=url, password=password, application="tocsin migrate", hosts=Hosts(url)), name)
    connection = watched.connection
    try:
        await schema.migrate(connection, name)
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("SET idle_in_transaction_session_timeout = 0")
        yield ArrivingStore(name, watched)
    except asyncpg.DataError as error:
        raise StoreError(f"{name}: a row cannot be stored there: {sentence(error)}") from None
    except Exception as error:
        if is_unavailable(error) or is_gone(error) or isinstance(error, WriteFailure):
            why = str(error) if isinstance(error, WriteFailure) else sentence(error)
            raise StoreError(f"{name}: {why}; run this again: it goes on where it was") from None
        raise
    finally:
        connection.terminate()


async def _insert(
    connection: Connection, table: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]
) -> None:
    if not rows:
        return
    names = ", ".join(name for name, _ in columns)
    arrays = ", ".join(f"${number}::{kind}[]" for number, (_, kind) in enumerate(columns, 1))
    given = f"unnest({arrays}) WITH ORDINALITY AS t({names}, n)"
    await connection.execute(
        f"INSERT INTO {table}({names}) SELECT {names} FROM {given} ORDER BY n",
        *[list(column) for column in zip(*rows, strict=True)],
        timeout=_LONGEST_S,
    )
