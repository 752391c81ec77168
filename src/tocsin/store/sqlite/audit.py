"""Audit on SQLite: one chain, which the server and the commands beside it extend, each in its own transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Final

from tocsin.domain.actors import Actor
from tocsin.domain.events import UserId
from tocsin.store.acting import actor
from tocsin.store.audit_chain import START, UNREADABLE_USER, Change, Ends, Link, Recorded, named_by, record
from tocsin.store.cursors import number_of
from tocsin.store.ports import StoreError
from tocsin.store.records import AuditPage, Cursor
from tocsin.store.sqlite.database import Database

Note = Callable[[sqlite3.Connection, Change], None]
"""Writes the entry of a change, in the transaction that makes it."""

Pseudonym = Callable[[sqlite3.Connection, UserId], str]
"""By what name the log knows a user, for what is written in the same transaction."""

_NEWEST: Final = 2**62
_HEAD: Final = "SELECT head_number, head_hash FROM audit_chain WHERE name = ?"
_APPEND: Final = "INSERT INTO audit(chain, number, at_ms, text, hash) VALUES (?, ?, ?, ?, ?)"
_SET_HEAD: Final = """INSERT INTO audit_chain(name, anchor_number, anchor_hash, head_number, head_hash)
    VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO UPDATE SET head_number = ?4, head_hash = ?5"""
_PAGE: Final = (
    "SELECT seq, number, CAST(text AS BLOB), CAST(hash AS BLOB) FROM audit WHERE seq <= ? ORDER BY seq DESC LIMIT ?"
)
_CHAINS: Final = "SELECT name, anchor_number, anchor_hash, head_number, head_hash FROM audit_chain ORDER BY name"
_READ: Final = (
    "SELECT number, CAST(text AS BLOB), CAST(hash AS BLOB) FROM audit WHERE chain = ? AND number > ?"
    " ORDER BY number LIMIT ?"
)
_FRONT: Final = "SELECT number, hash, at_ms FROM audit WHERE chain = ? ORDER BY number LIMIT ?"
_FORGET: Final = "DELETE FROM audit WHERE chain = ? AND number <= ?"
_SET_ANCHOR: Final = "UPDATE audit_chain SET anchor_number = ?, anchor_hash = ? WHERE name = ?"


class SqliteAudit:
    """See `ports.Audit`; and what the other ports write their entries with."""

    def __init__(
        self, database: Database, *, chain: str, wall_clock: Callable[[], float], pseudonym: Pseudonym
    ) -> None:
        self._database = database
        self._pseudonym = pseudonym
        self._chain = chain
        self._wall_clock = wall_clock

    def recording(self) -> Note | None:
        """What writes the entry of whoever is acting now; None where nobody is. Ask in the task that acts: the writer
        has none."""
        who = actor()
        if who is None:
            return None

        def note(driver: sqlite3.Connection, change: Change) -> None:
            named = partial(self._name, driver)
            append(driver, self._chain, self._now_ms(), *named_by(named, who, change))

        return note

    async def note(self, change: Change) -> None:
        note = self.recording()
        if note is None:
            raise LookupError("nobody is acting, so there is nobody to tell of")
        await self._database.write(lambda driver: note(driver, change))

    async def page(self, limit: int, *, start: Cursor | None = None) -> AuditPage:
        first = _NEWEST if start is None else number_of(start)
        found = await self._database.read(lambda driver: driver.execute(_PAGE, (first, limit + 1)).fetchall())
        entries = [Recorded(number, text, hash) for _, number, text, hash in found[:limit]]
        return AuditPage(entries, Cursor(str(found[limit][0])) if len(found) > limit else None)

    async def chains(self) -> list[Ends]:
        return await self._database.read(chains)

    async def read(self, chain: str, after: int, limit: int) -> list[Recorded]:
        found = await self._database.read(lambda driver: driver.execute(_READ, (chain, after, limit)).fetchall())
        return [Recorded(number, text, hash) for number, text, hash in found]

    def _name(self, driver: sqlite3.Connection, owner: UserId) -> str:
        try:
            return self._pseudonym(driver, owner)
        except StoreError:
            return UNREADABLE_USER

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def append(driver: sqlite3.Connection, chain: str, at_ms: int, who: Actor, change: Change) -> None:
    """Write the next entry of a chain, in the transaction that is open."""
    row = driver.execute(_HEAD, (chain,)).fetchone()
    before = START if row is None else Link(row[0], bytes(row[1]))
    entry, head = record(before, chain, at_ms, who, change)
    driver.execute(_APPEND, (chain, head.number, at_ms, entry.text, entry.hash))
    driver.execute(_SET_HEAD, (chain, START.number, START.hash, head.number, head.hash))


def chains(driver: sqlite3.Connection) -> list[Ends]:
    return [
        Ends(name, Link(anchor, bytes(anchor_hash)), Link(head, bytes(head_hash)))
        for name, anchor, anchor_hash, head, head_hash in driver.execute(_CHAINS).fetchall()
    ]


def forget(driver: sqlite3.Connection, before_ms: int, most: int) -> bool:
    """Prune up to `most` entries from the front of each chain, as far as they are older; whether there may be more."""
    more = False
    for ends in chains(driver):
        last, count = None, 0
        for number, hash, at_ms in driver.execute(_FRONT, (ends.chain, most)).fetchall():
            if at_ms >= before_ms:
                break
            last, count = (number, hash), count + 1
        if last is not None:
            driver.execute(_FORGET, (ends.chain, last[0]))
            driver.execute(_SET_ANCHOR, (*last, ends.chain))
        more |= count == most
    return more
