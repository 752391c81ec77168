"""The statements of `append`, each function one job on the writer's (or the reader's) connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tocsin.domain.events import URGENT, Event, EventId
from tocsin.store.appending import Append, KnownId, unknown
from tocsin.store.digests import Digests
from tocsin.store.ports import EventIdConflict
from tocsin.store.sqlite import rows
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.fresh import FreshEvents

_INSERT = (
    "INSERT INTO event(id, owner, message, urgent, accepted_ms, expires_ms, size, digest, body, content_key_id)"
    " VALUES {rows}"
)
# What a version before 0009 has left, until a server has opened the store: a digest without a key is text; and where
# there is none, the event is known by its content, in clear, while it is kept.
_KNOWN = (
    "WITH wanted(id) AS (VALUES {rows}) "
    "SELECT json_group_array(json_array(event.id, iif(typeof(digest) = 'text', digest, ''),"
    " iif(typeof(digest) = 'blob', hex(digest), ''),"
    " iif(digest IS NULL AND content_key_id IS NULL, hex(body), ''))) "
    "FROM wanted CROSS JOIN event ON event.id = wanted.id"
)

_decode_known = msgspec.json.Decoder(list[tuple[str, str, str, str]]).decode


class FileInserts:
    """See `store.appending.Inserts`."""

    def __init__(self, database: Database, fresh: FreshEvents, contents: Contents) -> None:
        self._database = database
        self._fresh = fresh
        self._contents = contents

    def refuse(self) -> None:
        self._database.refuse_if_damaged()

    async def known(self, ids: Sequence[EventId]) -> Iterable[str]:
        contents = self._contents
        return await self._database.read(lambda driver: known_ids(driver, ids, contents.digests(driver, writes=False)))

    async def insert(self, appends: Sequence[Append]) -> None:
        try:
            await self._database.write(lambda driver: insert(driver, appends, self._contents))
        except sqlite3.IntegrityError:
            raise KnownId from None

    async def insert_unknown(self, appends: Sequence[Append]) -> None:
        await self._database.write(lambda driver: insert_unknown(driver, appends, self._contents))

    def inserted(self, append: Append) -> None:
        # Not read back: what was appended is given on to the claims.
        self._fresh.appended(append.inserted)


def insert(driver: sqlite3.Connection, appends: Sequence[Append], contents: Contents) -> None:
    """Insert the batches of several producers.

    Raises:
        sqlite3.IntegrityError: an id is known, or twice in a batch; the transaction is to be rolled back.
        StoreError: the master key is missing.
    """
    digests = contents.digests(driver, writes=True)
    _insert(driver, [(append, append.events) for append in appends], contents, digests)


def insert_unknown(driver: sqlite3.Connection, appends: Sequence[Append], contents: Contents) -> None:
    """The same, without what is on record already; a batch in which an id is in conflict is left out whole."""
    digests = contents.digests(driver, writes=True)
    known = known_ids(driver, [event.id for append in appends for event in append.events], digests)
    fresh: list[tuple[Append, Sequence[Event]]] = []
    for append in appends:
        try:
            fresh.append((append, unknown(append.events, known, digests.of_one)))
        except EventIdConflict as conflict:
            append.error = conflict
    _insert(driver, fresh, contents, digests)


def known_ids(driver: sqlite3.Connection, ids: Sequence[EventId], digests: Digests) -> dict[str, bytes]:
    """Those of the ids that are on record, with the digest of their content (empty where that is forgotten)."""
    known: dict[str, bytes] = {}
    for text in rows.fetch_json(driver, _KNOWN, ids):
        for id, unkeyed, keyed, body in _decode_known(text):
            if body:
                known[id] = digests.of_one(bytes.fromhex(body))
            else:
                known[id] = digests.of_unkeyed(unkeyed) if unkeyed else bytes.fromhex(keyed)
    return known


def _insert(
    driver: sqlite3.Connection,
    fresh: Sequence[tuple[Append, Sequence[Event]]],
    contents: Contents,
    digests: Digests,
) -> None:
    flat = [event for _, events in fresh for event in events]
    if not flat:
        return
    key = contents.current(driver)
    key_id, sealed, digested = key.id, key.seal(flat, contents.random), digests.of([event.body for event in flat])
    values: list[tuple[Any, ...]] = [
        (
            event.id,
            event.owner,
            event.message,
            1 if event.message in URGENT else 0,
            event.accepted_ms,
            event.expires_ms,
            len(event.body),
            digest,
            body,
            key_id,
        )
        for event, digest, body in zip(flat, digested, sealed, strict=True)
    ]
    rows.execute(driver, _INSERT, values)
    (last,) = driver.execute("SELECT last_insert_rowid()").fetchone()
    seq = last - len(values) + 1
    for append, events in fresh:
        append.inserted = list(zip(range(seq, seq + len(events)), events, strict=True))
        seq += len(events)
