"""Before which times what is settled counts as forgotten, though its partition may still be there."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from tocsin.store.postgres.connections import Connection
from tocsin.store.records import State

_READ: Final = "SELECT name, value FROM meta WHERE name IN ('done_before_ms', 'dead_before_ms')"
_WRITE: Final = """INSERT INTO meta(name, value) SELECT * FROM unnest($1::text[], $2::bigint[])
    ON CONFLICT (name) DO UPDATE SET value = greatest(meta.value, excluded.value)"""


class Horizons(Struct):
    done_ms: int = 0
    """Events that were settled for good before this are forgotten (Unix milliseconds)."""
    dead_ms: int = 0
    """And those that became dead letters before this."""

    def is_forgotten(self, state: State, settled_ms: int) -> bool:
        return settled_ms < (self.dead_ms if state is State.DEAD else self.done_ms)

    async def read(self, connection: Connection) -> None:
        found = dict(await connection.fetch(_READ))
        self.done_ms, self.dead_ms = found.get("done_before_ms", 0), found.get("dead_before_ms", 0)

    async def write(self, connection: Connection, done_ms: int, dead_ms: int) -> None:
        await connection.execute(_WRITE, ["done_before_ms", "dead_before_ms"], [done_ms, dead_ms])
        await self.read(connection)
