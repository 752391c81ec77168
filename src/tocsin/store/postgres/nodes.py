"""The nodes: each has a row with its heartbeat and its status, and a lock that its session holds."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
import structlog

from tocsin.domain.nodes import NodeStatus
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.session import NODE_LOCKS

log = structlog.get_logger(__name__)

_REGISTER: Final = "INSERT INTO node(name, delivers) VALUES ($1, $2) RETURNING number"
_REGISTER_AGAIN: Final = """INSERT INTO node(number, name, delivers) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3)
    ON CONFLICT (number) DO NOTHING"""
_LOCK: Final = f"SELECT pg_try_advisory_lock({NODE_LOCKS}, $1)"
_LOCKED: Final = f"""SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = {NODE_LOCKS}
    AND objid::bigint = $1 AND objsubid = 2 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""
_END_BEFORE: Final = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = $1 AND pid <> pg_backend_pid() AND datname = current_database()"""
_BEAT: Final = """UPDATE node SET beat_at = clock_timestamp(), backlog_events = $2, backlog_bytes = $3
    WHERE number = $1 RETURNING extract(epoch FROM beat_at)::float8"""
_PUBLISH: Final = "UPDATE node SET status = $2 WHERE number = $1"
_STATUSES: Final = """SELECT status FROM node WHERE status IS NOT NULL AND beat_at > clock_timestamp() - interval '60 s'
    ORDER BY number"""
_FORGET: Final = "DELETE FROM node WHERE beat_at < clock_timestamp() - interval '1 day'"
_LIVING: Final = f"""SELECT number, beat_at FROM node WHERE number <> $1 AND EXISTS (SELECT 1 FROM pg_locks held
    WHERE held.locktype = 'advisory' AND held.classid = {NODE_LOCKS} AND held.objid::bigint = node.number
        AND held.objsubid = 2 AND held.granted
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""
_LEAVE: Final = "DELETE FROM node WHERE number = $1"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(NodeStatus).decode


async def register(connection: Connection, name: str, delivers: bool) -> int:
    """A number for this node, which its session holds a lock on."""
    number: int = await connection.fetchval(_REGISTER, name, delivers)
    await connection.fetchval(_LOCK, number)
    return number


async def is_locked(connection: Connection, number: int) -> bool:
    """Whether a session with this connection's database holds the lock on this number."""
    return bool(await connection.fetchval(_LOCKED, number))


async def register_again(connection: Connection, number: int, name: str, application: str, delivers: bool) -> None:
    """The same node on a new session: the one before, if the server still has it, ends, and its locks are free."""
    await connection.execute(_END_BEFORE, application)
    await connection.execute(_REGISTER_AGAIN, number, name, delivers)
    await connection.fetchval(_LOCK, number)


async def beat(connection: Connection, number: int, events: int, size_bytes: int) -> float:
    """Commit a heartbeat with what this node's logs hold; returns the database's time, Unix seconds."""
    found: float | None = await connection.fetchval(_BEAT, number, events, size_bytes)
    if found is None:
        raise ConnectionError("this node's row is gone")
    return found


async def living(connection: Connection, but: int) -> dict[int, datetime]:
    """The nodes whose session lives, each with its last heartbeat; without the node `but`."""
    return dict(await connection.fetch(_LIVING, but))


async def forget_old(connection: Connection) -> None:
    await connection.execute(_FORGET)


async def leave(connection: Connection, number: int) -> None:
    await connection.execute(_LEAVE, number)


class Statuses:
    """What each node says of itself."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.node = 0

    async def publish(self, status: NodeStatus) -> None:
        await self._database.statement(lambda one: one.execute(_PUBLISH, self.node, _encode(status)))

    async def all(self) -> list[NodeStatus]:
        rows = await self._database.read(lambda one: one.fetch(_STATUSES))
        found = []
        for (text,) in rows:
            try:
                found.append(_decode(text))
            except msgspec.MsgspecError:
                continue  # of a newer version
        return found
