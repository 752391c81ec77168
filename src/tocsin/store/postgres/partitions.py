"""The partitions of events, of settlements and of the search's index, one for each day: made ahead, and attached.

`CREATE TABLE … PARTITION OF` would wait for every reader of the whole table, and have every insert wait behind it; to
attach a table that is there already does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import asyncpg

from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.places import day_of
from tocsin.store.postgres.schema import LOCK_SPACE

T = TypeVar("T")

TABLES: Final = ("event", "settlement", "seen")
AHEAD_DAYS: Final = 2
"""So many days after today have their partitions already."""
_ATTACHING: Final = 2
_LOCK_TIMEOUT: Final = "2s"
_EXISTING: Final = """SELECT child.relname, inherited.inhdetachpending FROM pg_inherits inherited
    JOIN pg_class child ON child.oid = inherited.inhrelid
    WHERE inherited.inhparent = to_regclass($1)"""


def name_of(table: str, day: int) -> str:
    return f"{table}_{day}"


def is_missing(error: BaseException) -> bool:
    """Whether a row was refused because its day has no partition."""
    return isinstance(error, asyncpg.CheckViolationError) and "no partition" in str(error.args[0] if error.args else "")


async def existing(connection: Connection, table: str) -> dict[int, bool]:
    """The days that have a partition, and whether it is being detached."""
    rows = await connection.fetch(_EXISTING, table)
    return {int(name.rpartition("_")[2]): pending for name, pending in rows}


async def make(connection: Connection, first_day: int, last_day: int) -> None:
    """Have a partition for each of these days. To be called in a transaction of its own."""
    days = set(range(first_day, last_day + 1))
    await _make(connection, [(table, day) for table in TABLES for day in sorted(days)])


async def make_for_search(connection: Connection) -> None:
    """Have a partition of the search's index for each day that has events. In a transaction of its own."""
    await _make(connection, [("seen", day) for day in sorted(await existing(connection, "event"))])


async def _make(connection: Connection, wanted: Sequence[tuple[str, int]]) -> None:
    there = {(table, day) for table in TABLES for day in await existing(connection, table)}
    missing = [one for one in wanted if one not in there]
    if not missing:
        return
    await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_SPACE, _ATTACHING)
    for table, day in missing:
        if day in await existing(connection, table):
            continue  # another process has made it meanwhile
        name = name_of(table, day)
        await connection.execute(f"DROP TABLE IF EXISTS {name}")
        await connection.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
        await connection.execute(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES IN ({day})")


async def with_today(database: Database, now_ms: Callable[[], int], job: Callable[[Connection], Awaitable[T]]) -> T:
    """Run a job in a transaction; where today has no partition yet, make it and run the job again."""
    return await made_where_missing(database, day_of(now_ms()), lambda: database.write(job))


async def made_where_missing(database: Database, day: int, insert: Callable[[], Awaitable[T]]) -> T:
    """Insert; where the day has no partition yet, make it and insert again."""
    try:
        return await insert()
    except asyncpg.CheckViolationError as error:
        if not is_missing(error):
            raise
    await database.write(lambda one: make(one, day, day))
    return await insert()


async def drop(connection: Connection, table: str, day: int, pending: bool) -> None:
    """Detach a partition without blocking anybody, and drop it. Not within a transaction.

    `pending`: it was being detached when whoever did so was interrupted; that is finished first.
    """
    name = name_of(table, day)
    how = "FINALIZE" if pending else "CONCURRENTLY"
    await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {name} {how}")
    await connection.execute(f"DROP TABLE IF EXISTS {name}")
