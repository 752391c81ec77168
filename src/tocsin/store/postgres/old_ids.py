"""Forgets the ids of events that are gone.

They have one table for all days, so that each is unique. Once a day it is gone through, some blocks at a time, however
the ids lie in it: to look for the old ones by their day would begin at the start of the table for each step, and go
through all of it where few are left. How far that has come is on record, for whichever process goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tocsin.store.postgres import reading
from tocsin.store.postgres.connections import Connection

_STEP_BLOCKS: Final = 256
"""2 MB: some 20,000 ids."""
_BELOW, _BLOCK = "ids_forgotten_below", "ids_forgotten_to_block"
_ALL: Final = -1
"""In place of a block: the table was gone through."""

_BLOCKS: Final = "SELECT pg_relation_size('event_id') / current_setting('block_size')::int"
_READ: Final = f"SELECT name, value FROM meta WHERE name IN ('{_BELOW}', '{_BLOCK}')"
_WRITE: Final = """INSERT INTO meta(name, value) SELECT * FROM unnest($1::text[], $2::bigint[])
    ON CONFLICT (name) DO UPDATE SET value = excluded.value"""
_FORGET: Final = """DELETE FROM event_id WHERE ctid >= $1 AND ctid < $2 AND day < $3
    AND (SELECT true FROM kept WHERE kept.id = event_id.id LIMIT 1) IS NULL"""
_FORGET_THESE: Final = "DELETE FROM event_id WHERE id = ANY($1::uuid[]) AND day < $2"


async def forget(connection: Connection, before_day: int) -> bool:
    """Forget some ids of the days before this one; whether there may be more. In a transaction."""
    known: dict[str, int] = dict(await connection.fetch(_READ))
    below, block = known.get(_BELOW, 0), known.get(_BLOCK, 0)
    if before_day > below:
        below, block = before_day, 0
    elif block == _ALL:
        return False
    following = block + _STEP_BLOCKS
    await reading.by_index(connection)
    await connection.execute(_FORGET, (block, 0), (following, 0), below)
    if following >= await connection.fetchval(_BLOCKS):
        following = _ALL
    await connection.execute(_WRITE, [_BELOW, _BLOCK], [below, following])
    return following != _ALL


async def forget_these(connection: Connection, ids: Sequence[str], before_day: int) -> None:
    """Forget ids of events that have outlived the day that they were accepted on, and are gone now."""
    await connection.execute(_FORGET_THESE, ids, before_day)
