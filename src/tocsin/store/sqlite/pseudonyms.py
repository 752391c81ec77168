"""Pseudonyms on SQLite: each user's key lies in a row of its own, sealed, until the user is erased."""

from __future__ import annotations

import sqlite3
from typing import Final

from tocsin.domain.events import UserId
from tocsin.store.pseudonyms import PSEUDONYM_KEY_BYTES, identity, pseudonym
from tocsin.store.sealer import Sealer
from tocsin.store.sealing import RandomBytes, Sealed
from tocsin.store.sqlite.database import Database

_FIND: Final = "SELECT key_id, record FROM pseudonym WHERE owner = ?"
_INSERT: Final = "INSERT INTO pseudonym(owner, key_id, record) VALUES (?, ?, ?)"


class SqlitePseudonyms:
    """See `ports.Pseudonyms`."""

    def __init__(self, database: Database, sealer: Sealer, random: RandomBytes) -> None:
        self._database = database
        self._sealer = sealer
        self._random = random

    async def of(self, owner: UserId) -> str:
        found = await self.find(owner)
        if found is not None:
            return found
        return await self._database.write(lambda driver: self.within(driver, owner))

    async def find(self, owner: UserId) -> str | None:
        return await self._database.read(lambda driver: self._find(driver, owner))

    def within(self, driver: sqlite3.Connection, owner: UserId) -> str:
        """The pseudonym for what is written in the same transaction; made where there is none yet."""
        found = self._find(driver, owner)
        if found is not None:
            return found
        key = self._random(PSEUDONYM_KEY_BYTES)
        sealed = self._sealer.seal(identity(owner), key)
        driver.execute(_INSERT, (owner, sealed.key_id, sealed.record))
        return pseudonym(key, owner)

    def _find(self, driver: sqlite3.Connection, owner: UserId) -> str | None:
        row = driver.execute(_FIND, (owner,)).fetchone()
        if row is None:
            return None
        return pseudonym(self._sealer.open(identity(owner), Sealed(row[0], bytes(row[1]))), owner)
