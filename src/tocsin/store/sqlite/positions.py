"""Positions in the table `housekeeping`."""

from __future__ import annotations

from typing import Final

from tocsin.store.sqlite.database import Database

PREFIX: Final = "position "
_GET: Final = "SELECT number FROM housekeeping WHERE name = ?"
_SET: Final = "INSERT OR REPLACE INTO housekeeping(name, number) VALUES (?, ?)"


class SqlitePositions:
    """See `ports.Positions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> int | None:
        row = await self._database.read(lambda driver: driver.execute(_GET, (PREFIX + name,)).fetchone())
        return None if row is None else row[0]

    async def set(self, name: str, position: int) -> None:
        await self._database.write(lambda driver: driver.execute(_SET, (PREFIX + name, position)))
