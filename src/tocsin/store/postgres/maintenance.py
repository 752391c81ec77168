"""Checks a store on PostgreSQL: what is wrong with it, or will be, as sentences."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import asyncpg

from tocsin.store.ports import StoreError
from tocsin.store.postgres import credentials, origin, partitions, schema
from tocsin.store.postgres.clock import NOW_MS
from tocsin.store.postgres.connections import Connection, Target, connect
from tocsin.store.postgres.failures import sentence
from tocsin.store.postgres.hosts import Hosts
from tocsin.store.postgres.old_days import REMEMBERED_MS, date_of
from tocsin.store.postgres.places import XMIN, day_of
from tocsin.store.postgres.session import NODE_LOCKS

_OLDEST_TRANSACTION_S: Final = 60.0
"""What writes for so long stops every log meanwhile."""

_DURABILITY: Final = {
    "fsync": "fsync is off: a power cut may damage the whole database",
    "full_page_writes": "full_page_writes is off: a power cut may damage the whole database",
    "synchronous_commit": "synchronous_commit is off: a power cut loses what was acknowledged last",
    "synchronous_standby_names": "there is no synchronous standby: what was acknowledged is lost with this one server",
}
"""What is true of the store where a setting is off, or empty."""

_SERVED: Final = f"""SELECT EXISTS (SELECT 1 FROM pg_locks held JOIN node ON node.number = held.objid::bigint
    WHERE held.locktype = 'advisory' AND held.classid = {NODE_LOCKS} AND held.objsubid = 2 AND held.granted
        AND node.delivers AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""
# What may not be read yet is seen by everybody; who is to blame, only with the right to.
_HELD_UP: Final = f"""SELECT min(first.accepted_ms) FROM low_water AS low CROSS JOIN LATERAL (
    SELECT accepted_ms FROM event WHERE event.stream = low.stream AND event.xid >= {XMIN} AND event.id IS NOT NULL
    ORDER BY xid, seq LIMIT 1) AS first"""
_MAY_SEE: Final = "SELECT pg_has_role('pg_read_all_stats', 'USAGE')"
_OLDEST: Final = """SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL"""
_PREPARED: Final = """SELECT coalesce(max(extract(epoch FROM clock_timestamp() - prepared)), 0)::float8
    FROM pg_prepared_xacts"""


async def check(url: str, password: str | None, *, keep_s: float, now_ms: int | None = None) -> list[str]:
    """What is wrong; an empty list says that all is well. Nodes may be running.

    `keep_s`: for how long what was settled is kept. `now_ms`: in place of the database's clock.
    """
    try:
        async with _connected(url, password) as connection:
            return await _findings(connection, keep_s, now_ms)
    except StoreError as error:
        return [str(error)]


async def weaknesses(url: str, password: str | None) -> list[str]:
    """What an acknowledged commit is not safe from, a sentence each. Raises StoreError.

    Source: PostgreSQL, "Write Ahead Log" (fsync, full_page_writes, synchronous_commit), "Replication"
    (synchronous_standby_names).
    """
    async with _connected(url, password) as connection:
        is_set = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in _DURABILITY}
        wrong = [told for name, told in _DURABILITY.items() if is_set[name] == "off"]
        if not is_set["synchronous_standby_names"]:
            wrong.append(_DURABILITY["synchronous_standby_names"])
        elif is_set["synchronous_commit"] == "local":
            wrong.append("synchronous_commit is local: no standby is waited for")
        return wrong


async def unseen(url: str, password: str | None) -> list[str]:
    """What a check cannot see with the rights of this user, a sentence each. Raises StoreError."""
    async with _connected(url, password) as connection:
        if await connection.fetchval(_MAY_SEE):
            return []
        return [
            "for how long other users' transactions have been writing cannot be seen; `GRANT pg_read_all_stats` to this"
            " user allows it (a transaction that does not end keeps every node from new events)"
        ]


async def used_keys(url: str, password: str | None) -> list[str]:
    """The ids of the master keys that the store's records need. Raises StoreError."""
    async with _connected(url, password) as connection:
        try:
            return await credentials.used_keys(connection)
        except asyncpg.UndefinedTableError:
            return []


async def is_served(url: str, password: str | None) -> bool:
    """Whether a node delivers. Raises StoreError."""
    async with _connected(url, password) as connection:
        try:
            return bool(await connection.fetchval(_SERVED))
        except asyncpg.UndefinedTableError:
            return False


async def _findings(connection: Connection, keep_s: float, now_ms: int | None) -> list[str]:
    found, oldest = await schema.version(connection)
    newest = schema.steps()[-1].number
    if not found:
        return ["there are no tables of tocsin in this database; the first start makes them"]
    if oldest > newest:
        return [f"its tables are of a newer tocsin (schema {found}, usable from {oldest} on; this one knows {newest})"]
    wrong = await origin.wrong_with(connection) if found >= newest else None
    findings = [] if wrong is None else [wrong]
    if now_ms is None:
        now_ms = await connection.fetchval(NOW_MS)
    today = day_of(now_ms)
    # What is due at midnight may take a while: it is not overdue before the next one.
    kept_from = day_of(now_ms - max(int(keep_s * 1000), REMEMBERED_MS)) - 1
    for table in partitions.TABLES:
        days = await partitions.existing(connection, table)
        if today not in days:
            findings.append(f"there is no partition of {table} for today; a node makes one when it starts")
        if pending := sorted(day for day, detaching in days.items() if detaching):
            findings.append(f"partitions of {table} are being detached and were not finished: {_named(pending)}")
        if overdue := sorted(day for day in days if day < kept_from):
            findings.append(
                f"days of {table} are past their retention and were not dropped: {_named(overdue)}; the nodes' log"
                " says why"
            )
    held_since_ms = await connection.fetchval(_HELD_UP)
    if held_since_ms is not None and now_ms - held_since_ms > _OLDEST_TRANSACTION_S * 1000:
        findings.append(
            f"events that were accepted {(now_ms - held_since_ms) / 1000:.0f} s ago cannot be read yet: a transaction"
            " of this server that began before them has not ended (pg_stat_activity.backend_xid, pg_prepared_xacts)"
        )
    for what, statement in (("transaction", _OLDEST), ("prepared transaction", _PREPARED)):
        age_s = await connection.fetchval(statement)
        if age_s > _OLDEST_TRANSACTION_S:
            findings.append(
                f"a {what} of this server has been writing for {age_s:.0f} s: until it ends no node reads a new event"
            )
    return findings


def _named(days: Sequence[int]) -> str:
    """Their dates; of many the first and the last."""
    return (
        ", ".join(map(date_of, days)) if len(days) < 5 else f"{date_of(days[0])} to {date_of(days[-1])} ({len(days)})"
    )


@contextlib.asynccontextmanager
async def _connected(url: str, password: str | None) -> AsyncIterator[Connection]:
    try:
        watched = await connect(Target(url=url, password=password, application="tocsin check", hosts=Hosts(url)))
    except Exception as error:
        raise StoreError(f"the database cannot be reached: {sentence(error)}") from None
    try:
        yield watched.connection
    finally:
        watched.connection.terminate()
