"""Pseudonyms on PostgreSQL: each user's key lies in a row of its own, sealed, until the user is erased."""

from __future__ import annotations

from typing import Final

from tocsin.domain.events import UserId
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.pseudonyms import PSEUDONYM_KEY_BYTES, identity, pseudonym
from tocsin.store.sealer import Sealer
from tocsin.store.sealing import RandomBytes, Sealed

_FIND: Final = "SELECT key_id, record FROM pseudonym WHERE owner = $1"
_INSERT: Final = "INSERT INTO pseudonym(owner, key_id, record) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"


class PostgresPseudonyms:
    """See `ports.Pseudonyms`."""

    def __init__(self, database: Database, sealer: Sealer, random: RandomBytes) -> None:
        self._database = database
        self._sealer = sealer
        self._random = random

    async def of(self, owner: UserId) -> str:
        found = await self.find(owner)
        return found if found is not None else await self._database.write(lambda one: self.within(one, owner))

    async def find(self, owner: UserId) -> str | None:
        return await self._database.read(lambda one: self._find(one, owner))

    async def within(self, connection: Connection, owner: UserId) -> str:
        """The pseudonym for what is written in the same transaction; made where there is none yet."""
        found = await self._find(connection, owner)
        if found is None:
            sealed = self._sealer.seal(identity(owner), self._random(PSEUDONYM_KEY_BYTES))
            await connection.execute(_INSERT, owner, sealed.key_id, sealed.record)
            # Not the one that was made: another process may have been quicker.
            found = await self._find(connection, owner)
        assert found is not None
        return found

    async def _find(self, connection: Connection, owner: UserId) -> str | None:
        row = await connection.fetchrow(_FIND, owner)
        if row is None:
            return None
        return pseudonym(self._sealer.open(identity(owner), Sealed(*row)), owner)
