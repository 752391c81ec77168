"""Positions in the table `meta`."""

from __future__ import annotations

from typing import Final

from tocsin.store.postgres.connections import Database

PREFIX: Final = "position "
_GET: Final = "SELECT value FROM meta WHERE name = $1"
_SET: Final = """INSERT INTO meta(name, value) VALUES ($1, $2)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value"""


class PostgresPositions:
    """See `ports.Positions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> int | None:
        found: int | None = await self._database.read(lambda one: one.fetchval(_GET, PREFIX + name))
        return found

    async def set(self, name: str, position: int) -> None:
        await self._database.statement(lambda one: one.execute(_SET, PREFIX + name, position))
