"""Brings a database to this version's tables, one process at a time, and refuses one that it does not understand.

Plain SQL in numbered steps. Each step says which version is the oldest that may still use the tables after it, so that
nodes of two versions can run side by side: a step that only adds leaves it as it was (expand), and only a later version
removes what nobody uses any more (contract).
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import asyncpg
from msgspec import Struct

from tocsin.store.ports import StoreError
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.places import LOGS

LOCK_SPACE: Final = 0x746F6373
"""The first key of the advisory locks that are not about a log or a node."""
_MIGRATING: Final = 1


class Step(Struct, frozen=True):
    """The tables of one version."""

    number: int
    oldest: int
    """The lowest number that a tocsin must know to use these tables."""
    sql: str


def steps() -> list[Step]:
    first = (files("tocsin.store.postgres") / "schema.sql").read_text()
    logs = f"INSERT INTO log(number) SELECT generate_series(0, {LOGS - 1});"
    streams = f"INSERT INTO low_water(stream, day, xid, seq) SELECT generate_series(0, {2 * LOGS - 1}), 0, 0, 0;"
    return [Step(1, 1, f"{first}\n{logs}\n{streams}\nINSERT INTO meta(name, value) VALUES ('logs', {LOGS});")]


async def version(connection: Connection) -> tuple[int, int]:
    """The number of the tables that there are, and the oldest that may use them; 0 where there are none."""
    try:
        found = dict(await connection.fetch("SELECT name, value FROM meta WHERE name IN ('schema', 'oldest')"))
    except asyncpg.UndefinedTableError:
        return 0, 0
    return found.get("schema", 0), found.get("oldest", 0)


async def migrate(connection: Connection, name: str) -> None:
    """Bring the tables to this version.

    Raises:
        StoreError: they are of a newer version, which this one must not use.
    """
    known = steps()
    newest = known[-1].number
    found, oldest = await version(connection)
    if found < newest:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_SPACE, _MIGRATING)
            found, oldest = await version_within(connection)
            for step in known:
                if step.number > found:
                    await connection.execute(step.sql)
                    await connection.executemany(
                        "INSERT INTO meta(name, value) VALUES ($1, $2)"
                        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                        [("schema", step.number), ("oldest", step.oldest)],
                    )
                    oldest = step.oldest
    if oldest > newest:
        raise StoreError(
            f"{name}: its tables are of a newer tocsin (schema {found}, usable from {oldest} on; this one knows"
            f" {newest}); upgrade tocsin"
        )


async def version_within(connection: Connection) -> tuple[int, int]:
    """As `version`, within a transaction, which an unknown table would end."""
    if await connection.fetchval("SELECT to_regclass('meta')") is None:
        return 0, 0
    return await version(connection)
