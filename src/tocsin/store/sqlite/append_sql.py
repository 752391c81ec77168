"""The statements of `append`, each function one job on the writer's (or the reader's) connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tocsin.domain.events import URGENT, Event, EventId
from tocsin.store.appending import Append, KnownId, unknown
from tocsin.store.digests import Digest
from tocsin.store.ports import EventIdConflict
from tocsin.store.sqlite import rows
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.fresh import FreshEvents

_INSERT = "INSERT INTO event(id, owner, message, urgent, accepted_ms, expires_ms, size, digest, body) VALUES {rows}"
# Events of older versions have no digest where tocsin made the id: they are known by their content while it is kept.
_KNOWN = (
    "WITH wanted(id) AS (VALUES {rows}) "
    "SELECT json_group_array(json_array(event.id, coalesce(digest, ''), iif(digest IS NULL, hex(body), ''))) "
    "FROM wanted CROSS JOIN event ON event.id = wanted.id"
)

_decode_known = msgspec.json.Decoder(list[tuple[str, str, str]]).decode


class FileInserts:
    """See `store.appending.Inserts`."""

    def __init__(self, database: Database, fresh: FreshEvents, digest: Digest) -> None:
        self._database = database
        self._fresh = fresh
        self._digest = digest

    def refuse(self) -> None:
        self._database.refuse_if_damaged()

    async def known(self, ids: Sequence[EventId]) -> Mapping[str, str]:
        return await self._database.read(lambda driver: known_ids(driver, ids, self._digest))

    async def insert(self, appends: Sequence[Append]) -> None:
        try:
            await self._database.write(lambda driver: insert(driver, appends, self._digest))
        except sqlite3.IntegrityError:
            raise KnownId from None

    async def insert_unknown(self, appends: Sequence[Append]) -> None:
        await self._database.write(lambda driver: insert_unknown(driver, appends, self._digest))

    def inserted(self, append: Append) -> None:
        # Not read back: what was appended is given on to the claims.
        self._fresh.appended(append.inserted)


def insert(driver: sqlite3.Connection, appends: Sequence[Append], digest: Digest) -> None:
    """Insert the batches of several producers.

    Raises:
        sqlite3.IntegrityError: an id is known, or twice in a batch; the transaction is to be rolled back.
    """
    _insert(driver, [(append, append.events) for append in appends], digest)


def insert_unknown(driver: sqlite3.Connection, appends: Sequence[Append], digest: Digest) -> None:
    """The same, without what is on record already; a batch in which an id is in conflict is left out whole."""
    known = known_ids(driver, [event.id for append in appends for event in append.events], digest)
    fresh: list[tuple[Append, Sequence[Event]]] = []
    for append in appends:
        try:
            fresh.append((append, unknown(append.events, known, digest)))
        except EventIdConflict as conflict:
            append.error = conflict
    _insert(driver, fresh, digest)


def known_ids(driver: sqlite3.Connection, ids: Sequence[EventId], digest: Digest) -> dict[str, str]:
    """Those of the ids that are on record, with the digest of their content (empty where that is forgotten)."""
    known: dict[str, str] = {}
    for text in rows.fetch_json(driver, _KNOWN, ids):
        for id, stored, body in _decode_known(text):
            known[id] = digest(bytes.fromhex(body)) if body else stored
    return known


def _insert(driver: sqlite3.Connection, fresh: Sequence[tuple[Append, Sequence[Event]]], digest: Digest) -> None:
    values: list[tuple[Any, ...]] = [
        (
            event.id,
            event.owner,
            event.message,
            1 if event.message in URGENT else 0,
            event.accepted_ms,
            event.expires_ms,
            len(event.body),
            digest(event.body),
            event.body,
        )
        for _, events in fresh
        for event in events
    ]
    if not values:
        return
    rows.execute(driver, _INSERT, values)
    (last,) = driver.execute("SELECT last_insert_rowid()").fetchone()
    seq = last - len(values) + 1
    for append, events in fresh:
        append.inserted = list(zip(range(seq, seq + len(events)), events, strict=True))
        seq += len(events)
