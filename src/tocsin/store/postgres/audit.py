"""Audit on PostgreSQL: a chain for each machine, which its processes extend, each in its own transactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tocsin.domain.actors import Actor, ActorKind
from tocsin.domain.events import UserId
from tocsin.store.acting import actor
from tocsin.store.audit_chain import START, UNREADABLE_USER, Change, Ends, Link, Recorded, named_by, record
from tocsin.store.cursors import number_of
from tocsin.store.ports import StoreError
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.pseudonyms import PostgresPseudonyms
from tocsin.store.records import AuditPage, Cursor

_NEWEST: Final = 2**62
_BEGIN: Final = """INSERT INTO audit_chain(name, anchor_number, anchor_hash, head_number, head_hash)
    VALUES ($1, $2, $3, $2, $3) ON CONFLICT DO NOTHING"""
_HEAD: Final = "SELECT head_number, head_hash FROM audit_chain WHERE name = $1 FOR UPDATE"
_APPEND: Final = "INSERT INTO audit(chain, number, at_ms, text, hash) VALUES ($1, $2, $3, $4, $5)"
_SET_HEAD: Final = "UPDATE audit_chain SET head_number = $2, head_hash = $3 WHERE name = $1"
_PAGE: Final = "SELECT seq, number, text, hash FROM audit WHERE seq <= $1 ORDER BY seq DESC LIMIT $2"
_CHAINS: Final = """SELECT name, anchor_number, anchor_hash, head_number, head_hash FROM audit_chain
    WHERE head_number > 0 ORDER BY name"""
_READ: Final = "SELECT number, text, hash FROM audit WHERE chain = $1 AND number > $2 ORDER BY number LIMIT $3"
_FRONT: Final = "SELECT number, hash, at_ms FROM audit WHERE chain = $1 ORDER BY number LIMIT $2"
_FORGET: Final = "DELETE FROM audit WHERE chain = $1 AND number <= $2"
_SET_ANCHOR: Final = "UPDATE audit_chain SET anchor_number = $2, anchor_hash = $3 WHERE name = $1"


class Recording:
    """Writes the entries of whoever was acting when it was made; nothing where nobody was."""

    def __init__(self, audit: PostgresAudit, who: Actor | None) -> None:
        self._audit = audit
        self.who = who

    async def __call__(self, connection: Connection, change: Change) -> None:
        """In the transaction of the change, and last in it: until it ends, nobody else extends the chain."""
        if self.who is not None:
            await self._audit.append(connection, self.who, change)


class PostgresAudit:
    """See `ports.Audit`; and what the other ports write their entries with."""

    def __init__(self, database: Database, chain: str, clock: DatabaseClock, pseudonyms: PostgresPseudonyms) -> None:
        self._database = database
        self._chain = chain
        self._clock = clock
        self._pseudonyms = pseudonyms

    def recording(self) -> Recording:
        """To be asked in the task that acts."""
        return Recording(self, actor())

    async def note(self, change: Change) -> None:
        note = self.recording()
        if note.who is None:
            raise LookupError("nobody is acting, so there is nobody to tell of")
        await self._database.write(lambda one: note(one, change))

    async def page(self, limit: int, *, start: Cursor | None = None) -> AuditPage:
        first = _NEWEST if start is None else number_of(start)
        found = await self._database.read(lambda one: one.fetch(_PAGE, first, limit + 1))
        entries = [Recorded(number, text, hash) for _, number, text, hash in found[:limit]]
        return AuditPage(entries, Cursor(str(found[limit][0])) if len(found) > limit else None)

    async def chains(self) -> list[Ends]:
        return await self._database.read(_chains)

    async def read(self, chain: str, after: int, limit: int) -> list[Recorded]:
        found: Sequence[Any] = await self._database.read(lambda one: one.fetch(_READ, chain, after, limit))
        return [Recorded(number, text, hash) for number, text, hash in found]

    async def append(self, connection: Connection, who: Actor, change: Change) -> None:
        """Write the next entry of this node's chain."""
        names: dict[UserId, str] = {}
        users = [UserId(who.id)] if who.kind is ActorKind.USER else []
        for owner in [*users, *([change.owner] if change.owner is not None else [])]:
            try:
                names[owner] = await self._pseudonyms.within(connection, owner)
            except StoreError:
                names[owner] = UNREADABLE_USER
        named = named_by(names.__getitem__, who, change)
        await connection.execute(_BEGIN, self._chain, START.number, START.hash)
        before = Link(*await connection.fetchrow(_HEAD, self._chain))
        at_ms = self._clock.now_ms()
        entry, head = record(before, self._chain, at_ms, *named)
        await connection.execute(_APPEND, self._chain, head.number, at_ms, entry.text, entry.hash)
        await connection.execute(_SET_HEAD, self._chain, head.number, head.hash)


async def forget(connection: Connection, before_ms: int, most: int) -> bool:
    """Prune up to `most` entries from the front of each chain, as far as they are older; whether there may be more."""
    more = False
    for ends in await _chains(connection):
        last, count = None, 0
        for number, hash, at_ms in await connection.fetch(_FRONT, ends.chain, most):
            if at_ms >= before_ms:
                break
            last, count = (number, hash), count + 1
        if last is not None:
            await connection.execute(_FORGET, ends.chain, last[0])
            await connection.execute(_SET_ANCHOR, ends.chain, *last)
        more |= count == most
    return more


async def _chains(connection: Connection) -> list[Ends]:
    return [
        Ends(name, Link(anchor, anchor_hash), Link(head, head_hash))
        for name, anchor, anchor_hash, head, head_hash in await connection.fetch(_CHAINS)
    ]
