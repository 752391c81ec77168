"""Brings a database to this version's tables, one process at a time, and refuses one that it does not understand.

Plain SQL in numbered steps. Each step says which version is the oldest that may still use the tables after it, so that
nodes of two versions can run side by side: a step that only adds leaves it as it was (expand), and only a later version
removes what nobody uses any more (contract). A step that removes something waits until no node runs that needs it: each
holds a lock on the number that it knows. CONTRIBUTING.md has the rules for such steps.
"""

from __future__ import annotations

import asyncio
import contextlib
from importlib.resources import files
from typing import Final

import asyncpg
from msgspec import Struct

from tocsin.store.ports import StoreError
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.places import LOGS
from tocsin.store.postgres.session import NODE_LOCKS

LOCK_SPACE: Final = 0x746F6373
"""The first key of the advisory locks that are not about a log or a node."""
_MIGRATING: Final = 1
_LOCK_TIMEOUT: Final = "500ms"
"""Below PostgreSQL's `deadlock_timeout`, so that it is the change that is given up."""
_PAUSE_S: Final = 1.0
_ATTEMPTS: Final = 60
_KNOWN_LOCKS: Final = 0x746F6B6E
"""The first key of the locks by which running nodes say which number they know; the second is the number."""
_KNOW: Final = f"SELECT pg_advisory_lock_shared({_KNOWN_LOCKS}, $1)"
# Versions before these locks have none, and know the first step.
_OLDER_NODES: Final = f"""SELECT count(DISTINCT node.pid) FROM pg_locks AS node
    WHERE node.locktype = 'advisory' AND node.classid = {NODE_LOCKS} AND node.objsubid = 2 AND node.granted
        AND node.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND NOT EXISTS (SELECT 1 FROM pg_locks AS known WHERE known.pid = node.pid AND known.locktype = 'advisory'
            AND known.classid = {_KNOWN_LOCKS} AND known.objsubid = 2 AND known.objid::bigint >= $1)"""


MOVING: Final = "moving"
"""What `meta` has while a store moves to this database (arriving.py): the number of the move."""


class Step(Struct, frozen=True):
    """A change of the tables, in a transaction of its own. It changes one table that nodes use, no more: with two it
    could wait for a node that waits for it."""

    number: int
    oldest: int
    """The lowest number that a tocsin must know to use these tables."""
    sql: str


def steps() -> list[Step]:
    names = ("schema.sql", "schema-search.sql", "schema-checks.sql", "schema-pruning.sql")
    first, second, third, fourth = ((files("tocsin.store.postgres") / name).read_text() for name in names)
    logs = f"INSERT INTO log(number) SELECT generate_series(0, {LOGS - 1});"
    streams = f"INSERT INTO low_water(stream, day, xid, seq) SELECT generate_series(0, {2 * LOGS - 1}), 0, 0, 0;"
    cursors = f"INSERT INTO seen_to(stream, day, xid, seq) SELECT generate_series(0, {2 * LOGS - 1}), 0, 0, 0;"
    rebuilding = "INSERT INTO meta(name, value) SELECT 'search_rebuilding', EXISTS (SELECT 1 FROM event)::int;"
    return [
        Step(1, 1, f"{first}\n{logs}\n{streams}\nINSERT INTO meta(name, value) VALUES ('logs', {LOGS});"),
        Step(2, 1, f"{second}\n{cursors}\n{rebuilding}"),
        Step(3, 1, third),
        Step(4, 1, fourth),
    ]


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
        StoreError: they are of a newer version, which this one must not use; or processes of an older version need what
            a step removes; or somebody reads a table for so long that it cannot be changed.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(asyncpg.LockNotAvailableError):
            await _migrate(connection, name)
            return
        await asyncio.sleep(_PAUSE_S)
    raise StoreError(f"{name}: its tables cannot be brought to this version: a transaction holds them; end that first")


async def _migrate(connection: Connection, name: str) -> None:
    known = steps()
    newest = known[-1].number
    found, oldest = await version(connection)
    while found < newest:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_SPACE, _MIGRATING)
            # Everybody else would wait behind a change that waits for a long transaction.
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            found, oldest = await version_within(connection)
            if (step := next((one for one in known if one.number > found), None)) is None:
                break  # another process has done it meanwhile
            if step.oldest > max(oldest, 1):
                await _refuse_older_nodes(connection, name, step)
            await connection.execute(step.sql)
            await connection.executemany(
                "INSERT INTO meta(name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                [("schema", step.number), ("oldest", step.oldest)],
            )
            found, oldest = step.number, step.oldest
    _refuse_newer(name, found, oldest, newest)


async def refuse_moving(connection: Connection, name: str) -> None:
    """Raises StoreError while a store is being moved to this database."""
    if await connection.fetchval("SELECT EXISTS (SELECT 1 FROM meta WHERE name = $1)", MOVING):
        raise StoreError(
            f"{name}: a store is being moved to this database: finish that `tocsin store migrate` first; where it was"
            " given up, empty the database"
        )


async def know(connection: Connection, name: str) -> None:
    """A node of this version begins on this session: until that ends, nothing is removed that it needs.

    Raises:
        StoreError: something was, since the node has looked.
    """
    newest = steps()[-1].number
    await connection.execute(_KNOW, newest)
    _refuse_newer(name, *await version(connection), newest)


async def _refuse_older_nodes(connection: Connection, name: str, step: Step) -> None:
    if older := await connection.fetchval(_OLDER_NODES, step.oldest):
        raise StoreError(
            f"{name}: this version removes from its tables what {older} running processes of an older version need"
            f" (schema {step.number}, usable from {step.oldest} on); upgrade those to the version before this one first"
        )


def _refuse_newer(name: str, found: int, oldest: int, newest: int) -> None:
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
