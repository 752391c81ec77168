"""Encrypts and decrypts contents, by keys that are kept in the database, and keeps the digests' key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag

from tocsin.domain.events import Event, EventId
from tocsin.store.content_keys import ContentKey, ContentKeys
from tocsin.store.digests import DIGEST_KEY, Digests, identity
from tocsin.store.ports import StoreUnavailable
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.sealer import Sealer
from tocsin.store.sealing import KEY_BYTES, RandomBytes, Sealed

_CURRENT: Final = """SELECT id, until_ms, key_id, record FROM content_key WHERE from_ms <= $1 AND until_ms > $1
    ORDER BY until_ms DESC, id LIMIT 1"""
_FIND: Final = "SELECT id, key_id, record FROM content_key WHERE id = ANY($1::bigint[])"
_INSERT: Final = "INSERT INTO content_key(id, from_ms, until_ms, key_id, record) VALUES ($1, $2, $3, $4, $5)"
_FIND_KEPT: Final = "SELECT key_id, record FROM kept_key WHERE name = $1"
_INSERT_KEPT: Final = "INSERT INTO kept_key(name, key_id, record) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"


class Contents:
    """One for a store that is open."""

    def __init__(self, database: Database, sealer: Sealer, random: RandomBytes, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._sealer = sealer
        self._random = random
        self._now_ms = now_ms
        self._keys = ContentKeys(sealer, random)
        self._digests: Digests | None = None
        self._current: tuple[int, int, ContentKey] | None = None
        """From when until when, and the key."""

    async def seal(self, events: Sequence[Event]) -> tuple[int, list[bytes]]:
        """The contents of these events, encrypted, and the id of their key.

        Raises:
            StoreError: the master key is missing.
            StoreUnavailable: the database cannot be used.
        """
        key = await self._of_now()
        return key.id, key.seal(events, self._random)

    async def ready(self) -> None:
        """Have at hand what an insertion needs: to be called before a job that holds a connection, as a job that waits
        for a second one may wait for others that do the same. Raises as `seal` does."""
        await self.digests()
        await self._of_now()

    async def learn(self, ids: Iterable[int | None], connection: Connection | None = None) -> None:
        """Have these keys ready; `connection` is that of the job that asks. Raises as `seal` does."""
        unknown = [id for id in set(ids) if id is not None and self._keys.find(id) is None]
        if not unknown:
            return
        if connection is None:
            rows = await self._database.read(lambda one: one.fetch(_FIND, unknown))
        else:
            rows = await connection.fetch(_FIND, unknown)
        for id, key_id, record in rows:
            self._keys.unwrap(id, Sealed(key_id, record))

    def open(self, key_id: int | None, event_id: EventId, body: bytes) -> bytes:
        """A content as it was accepted; its key was learned.

        Raises:
            StoreUnavailable: it was changed, or its key is gone.
        """
        if key_id is None:
            return body
        key = self._keys.find(key_id)
        if key is None:
            raise StoreUnavailable("the key by which a content is encrypted is gone")
        try:
            return key.open(event_id, body)
        except InvalidTag:
            raise StoreUnavailable(f"the content of event {event_id} cannot be decrypted: it was changed") from None

    async def digests(self) -> Digests:
        """What digests are made with; the first process that needs the key makes it. Raises as `seal` does."""
        if self._digests is None:
            sealed = await self._database.read(lambda one: one.fetchrow(_FIND_KEPT, DIGEST_KEY))
            if sealed is None:
                made = self._sealer.seal(identity(DIGEST_KEY), self._random(KEY_BYTES))
                await self._database.write(lambda one: one.execute(_INSERT_KEPT, DIGEST_KEY, made.key_id, made.record))
                # Not the one that was made: another process may have been quicker.
                sealed = await self._database.read(lambda one: one.fetchrow(_FIND_KEPT, DIGEST_KEY))
            self._digests = Digests(self._sealer.open(identity(DIGEST_KEY), Sealed(*sealed)))
        return self._digests

    async def _of_now(self) -> ContentKey:
        now_ms = self._now_ms()
        if self._current is not None and self._current[0] <= now_ms < self._current[1]:
            return self._current[2]

        async def find_or_make(connection: Connection) -> tuple[int, int]:
            row = await connection.fetchrow(_CURRENT, now_ms)
            if row is not None:
                id, until_ms, key_id, record = row
                self._keys.learn_master_key(key_id)
                if self._keys.find(id) is None:
                    self._keys.unwrap(id, Sealed(key_id, record))
                return id, until_ms
            made = self._keys.make(now_ms)
            await connection.execute(
                _INSERT, made.id, made.from_ms, made.until_ms, made.sealed.key_id, made.sealed.record
            )
            return made.id, made.until_ms

        id, until_ms = await self._database.write(find_or_make)
        key = self._keys.find(id)
        assert key is not None
        self._current = (now_ms, until_ms, key)
        return key
