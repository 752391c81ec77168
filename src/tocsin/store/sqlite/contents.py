"""Encrypts and decrypts contents within the transactions that write and read them, and keeps the digests' key."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag

from tocsin.domain.events import EventId
from tocsin.store.content_keys import ContentKey, ContentKeys
from tocsin.store.digests import DIGEST_KEY, Digests, identity
from tocsin.store.sealer import Sealer
from tocsin.store.sealing import KEY_BYTES, RandomBytes, Sealed

_CURRENT: Final = (
    "SELECT id, key_id, record FROM content_key WHERE closed = 0 AND from_ms <= ?1 AND until_ms > ?1"
    " ORDER BY until_ms DESC, id LIMIT 1"
)
_FIND: Final = "SELECT key_id, record FROM content_key WHERE id = ?"
_INSERT: Final = "INSERT INTO content_key(id, from_ms, until_ms, key_id, record) VALUES (?, ?, ?, ?, ?)"
_MASTER_KEYS: Final = "SELECT DISTINCT key_id FROM kept_key"
_FIND_KEPT: Final = "SELECT key_id, record FROM kept_key WHERE name = ?"
_INSERT_KEPT: Final = "INSERT INTO kept_key(name, key_id, record) VALUES (?, ?, ?)"


class Contents:
    """One for a store that is open; its functions run on the workers' connections."""

    def __init__(self, sealer: Sealer, random: RandomBytes, *, wall_clock: Callable[[], float]) -> None:
        self._sealer = sealer
        self._wall_clock = wall_clock
        self._digests: Digests | None = None
        self.random = random
        self.keys = ContentKeys(sealer, random)

    def current(self, driver: sqlite3.Connection) -> ContentKey:
        """The key of this hour, in a transaction that writes. It is looked for in each of them: what made it may have
        been rolled back, and another process may be about to drop it.

        Raises:
            StoreError: its master key is missing.
        """
        now_ms = int(self._wall_clock() * 1000)
        row = driver.execute(_CURRENT, (now_ms,)).fetchone()
        if row is None:
            # Another process may have brought all under a new master key.
            for (key_id,) in driver.execute(_MASTER_KEYS).fetchall():
                self.keys.learn_master_key(key_id)
            made = self.keys.make(now_ms)
            row = (made.id, made.from_ms, made.until_ms, made.sealed.key_id, made.sealed.record)
            driver.execute(_INSERT, row)
            return self._key(driver, made.id)
        id, key_id, record = row
        self.keys.learn_master_key(key_id)
        return self.keys.find(id) or self.keys.unwrap(id, Sealed(key_id, bytes(record)))

    def open(self, driver: sqlite3.Connection, key: int | None, event_id: EventId, body: bytes) -> bytes:
        """A content as it was accepted. Without a key it is in clear: an older version has written it.

        Raises:
            StoreError: the master key is missing.
            sqlite3.DatabaseError: it was changed, or its key is gone: the file is damaged.
        """
        if key is None:
            return body
        try:
            return (self.keys.find(key) or self._key(driver, key)).open(event_id, body)
        except InvalidTag:
            raise _damaged(f"the content of event {event_id} cannot be decrypted: it was changed or moved") from None

    def digests(self, driver: sqlite3.Connection, *, writes: bool) -> Digests:
        """What digests are made with; where there is no key yet, and `writes` says that one may be stored, it is made.

        To be asked once in a transaction: what is found is remembered, so it must be committed.

        Raises:
            StoreError: the master key is missing.
        """
        if self._digests is not None:
            return self._digests
        row = driver.execute(_FIND_KEPT, (DIGEST_KEY,)).fetchone()
        if row is not None:
            self._digests = Digests(self._sealer.open(identity(DIGEST_KEY), Sealed(row[0], bytes(row[1]))))
            return self._digests
        secret = self.random(KEY_BYTES)
        if writes:
            sealed = self._sealer.seal(identity(DIGEST_KEY), secret)
            driver.execute(_INSERT_KEPT, (DIGEST_KEY, sealed.key_id, sealed.record))
        # Not remembered before it is committed.
        return Digests(secret)

    def _key(self, driver: sqlite3.Connection, id: int) -> ContentKey:
        found = self.keys.find(id)
        if found is not None:
            return found
        row = driver.execute(_FIND, (id,)).fetchone()
        if row is None:
            raise _damaged("the key by which a content is encrypted is gone")
        return self.keys.unwrap(id, Sealed(row[0], bytes(row[1])))


def _damaged(what: str) -> sqlite3.DatabaseError:
    """Told as SQLite tells of a damaged file, which it is: nothing is accepted or delivered from it any more."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
