"""What is done when a master key is lost for good: what it encrypts is given up, so that all the rest can be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from tocsin.domain.actors import Actor
from tocsin.store.audit_chain import Action, Change, Detail
from tocsin.store.ports import StoreError
from tocsin.store.postgres import nodes, partitions
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.places import day_of
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import GivenUp

_WITHIN_S: Final = 24 * 3600.0
"""Events have no index of their keys: all of them are read."""

_CREDENTIALS: Final = "DELETE FROM credential WHERE key_id = $1 RETURNING account"
_KEYS: Final = "DELETE FROM content_key WHERE key_id = $1 RETURNING id"
_PSEUDONYMS: Final = "DELETE FROM pseudonym WHERE key_id = $1"
# A repeated id is then refused: nobody can say whether it is the same event.
_DIGESTS: Final = "DELETE FROM kept_key WHERE key_id = $1"
_PARKED: Final = """DELETE FROM parked USING (SELECT p.id FROM parked AS p
        LEFT JOIN kept ON kept.stream = p.stream AND kept.xid = p.xid AND kept.seq = p.seq
        LEFT JOIN event ON event.day = p.day AND event.stream = p.stream AND event.xid = p.xid AND event.seq = p.seq
        WHERE CASE WHEN kept.id IS NULL THEN event.content_key ELSE kept.content_key END = ANY($1::bigint[])) AS own
    WHERE parked.id = own.id RETURNING parked.stream, parked.xid, parked.seq, parked.id, parked.day"""
_UNTRIED: Final = """SELECT event.stream, event.xid, event.seq, 0, event.day FROM event
    JOIN low_water AS low USING (stream) WHERE event.content_key = ANY($1::bigint[]) AND event.id IS NOT NULL
        AND (event.xid, event.seq) > (low.xid, low.seq)
        AND NOT EXISTS (SELECT 1 FROM settlement WHERE settlement.stream = event.stream
            AND settlement.xid = event.xid AND settlement.seq = event.seq AND settlement.unit = 0)"""
_SETTLE: Final = """INSERT INTO settlement(day, stream, xid, seq, unit, event_day, at_ms, attempts)
    SELECT $1, stream, xid, seq, unit, event_day, $2, '[]'
    FROM unnest($3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::int[])
        AS t(stream, xid, seq, unit, event_day)"""
_KEPT: Final = """UPDATE kept SET dead = false, settled_ms = $2, body = ''::bytea, content_key = NULL
    WHERE content_key = ANY($1::bigint[]) AND (dead OR settled_ms IS NULL) RETURNING stream, xid, seq"""


async def give_up(store: PostgresStore, key_id: str, actor: Actor) -> GivenUp:
    """End all that only the master key `key_id` could open, in one transaction. No node may be running.

    The audit log tells that `actor` has done so.

    Raises:
        StoreError: a node is running.
        WriteFailure: the database cannot be used.
    """
    day = day_of(store.now_ms())
    job = partial(_give_up, store=store, key_id=key_id, actor=actor)
    return await partitions.made_where_missing(store.database, day, lambda: store.database.write(job))


async def _give_up(connection: Connection, store: PostgresStore, key_id: str, actor: Actor) -> GivenUp:
    if await nodes.living(connection, but=0):
        raise StoreError(f"{store.name}: a server is running; stop all of them first")
    await connection.execute("SET LOCAL statement_timeout = 0")
    now_ms = store.now_ms()
    accounts = [account for (account,) in await connection.fetch(_CREDENTIALS, key_id)]
    keys = [id for (id,) in await connection.fetch(_KEYS, key_id)]
    ended = await _end_events(connection, keys, now_ms)
    await connection.execute(_PSEUDONYMS, key_id)
    await connection.execute(_DIGESTS, key_id)
    details: dict[str, Detail] = {"events": ended, "credentials": accounts}
    await store.audit.append(connection, actor, Change(Action.STORE_GIVE_UP_KEY, key_id, details))
    return GivenUp(tuple(accounts), ended)


async def _end_events(connection: Connection, keys: Sequence[int], now_ms: int) -> int:
    """End what waits, and dead letters, whose content is encrypted by one of these; how many events that are."""
    parked = await connection.fetch(_PARKED, keys, timeout=_WITHIN_S)
    untried = await connection.fetch(_UNTRIED, keys, timeout=_WITHIN_S)
    # As if each had been settled without an attempt: so it is forgotten with its retention from now on.
    columns = [list(column) for column in zip(*parked, *untried, strict=True)]
    if columns:
        await connection.execute(_SETTLE, day_of(now_ms), now_ms, *columns, timeout=_WITHIN_S)
    kept = await connection.fetch(_KEPT, keys, now_ms, timeout=_WITHIN_S)
    return len(_places(parked) | _places(untried) | _places(kept))


def _places(rows: Iterable[Any]) -> set[tuple[int, int, int]]:
    return {(row["stream"], row["xid"], row["seq"]) for row in rows}
