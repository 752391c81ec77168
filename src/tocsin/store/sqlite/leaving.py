"""A store on SQLite that moves to another engine: its rows, and the mark by which nobody uses it meanwhile and after.

Nothing but the mark is written. It lies in the file itself, so that it goes with a copy, too.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.events import EventId, UserId
from tocsin.store.moved_rows import PLAIN, POSITIONS, TRIED, UNTRIED, EventRow, Plain
from tocsin.store.ports import StoreError
from tocsin.store.records import State
from tocsin.store.sqlite import maintenance, sealed_rows
from tocsin.store.sqlite.connection import close, open_connection, raw
from tocsin.store.sqlite.failures import explained
from tocsin.store.sqlite.migrations import MigrationError, is_current
from tocsin.store.sqlite.positions import PREFIX

COPIED: Final = {"event", "parked", *(plain.table for plain in PLAIN)} - {POSITIONS}
NOT_COPIED: Final = {
    "alembic_version": "each engine has its own schema",
    "signal": "nobody is running who would have to be told",
    "search_feed": "the search's index is made anew where there is one",
    "housekeeping": "it is about this file, but for the positions of sources, which are copied",
}
"""Every table is in one of the two (a test compares them with the schema)."""
LEFT_OUT: Final = {
    "device.id": "the place in the file",
    "removal.id": "the order of the rows, which is kept",
    "audit.seq": "the order of the rows, which is kept",
    "job.seq": "the order of the rows, which is kept",
    "content_key.closed": "it is said by its times: a closed key is current at no time",
    "event.seq": "the order of the rows, which is kept",
    "event.state": "it is said by the rows that an event has",
    "event.waiting": "the number of its parked rows",
    "parked.id": "the order of the rows, which is kept",
    "parked.seq": "it is copied with its event",
    "parked.urgent": "its event's",
    "parked.claimed": "nobody has claimed anything once the server is stopped",
}
"""Columns of tables that are copied, and are not."""

# A job that has not ended begins again: its place is one of this file's. What it has done it passes over.
_EXPRESSIONS: Final = {
    ("content_key", "until_ms"): "iif(closed, min(until_ms, from_ms), until_ms)",
    (POSITIONS, "value"): "number",
    ("job", "position"): "iif(state IN ('waiting', 'running', 'stopping'), '', position)",
}
_WHERE_IT_IS: Final = {POSITIONS: f"housekeeping WHERE name LIKE '{PREFIX}%'"}
_FIRST: Final = -(2**63)
_EVENT: Final = """SELECT seq, id, owner, message, urgent, accepted_ms, expires_ms, state, dead, size, digest,
    attempts, CAST(body AS BLOB), round, settled_ms, content_key_id, waiting FROM event
    WHERE seq >= ? AND {which} ORDER BY seq"""
_WHICH: Final = {
    TRIED: f"state != {int(State.ACCEPTED)}",
    UNTRIED: f"state = {int(State.ACCEPTED)}",
}
_PARKED: Final = "SELECT lane, due_ms, expires_ms, tries, targets FROM parked WHERE seq = ? ORDER BY id"
_OLD: Final = """SELECT EXISTS (SELECT 1 FROM housekeeping WHERE name = 'in_clear')
    OR EXISTS (SELECT 1 FROM credential WHERE key_id IS NULL)"""
_MARK: Final = "SELECT number, filling FROM housekeeping WHERE name = 'moved'"
_SET_MARK: Final = "INSERT OR REPLACE INTO housekeeping(name, number, filling) VALUES ('moved', ?, ?)"
_REMOVE_MARK: Final = "DELETE FROM housekeeping WHERE name = 'moved'"

_encode = msgspec.json.Encoder().encode


class _Where(Struct, frozen=True):
    """To where, as messages name it, and whether all of it is there."""

    to: str
    done: bool


class Mark(Struct, frozen=True):
    """On a store that moves, or has moved."""

    id: int
    """Of this move: the target has it, too."""
    to: str
    done: bool


def mark_of(driver: sqlite3.Connection) -> Mark | None:
    row = driver.execute(_MARK).fetchone()
    if row is None:
        return None
    where = msgspec.json.decode(row[1], type=_Where)
    return Mark(row[0], where.to, where.done)


def refuse_moved(driver: sqlite3.Connection, path: Path) -> None:
    """Raises StoreError where the store has moved, or is about to."""
    mark = mark_of(driver)
    if mark is None:
        return
    back = f"`tocsin store migrate --from sqlite:{path} --take-back`"
    if mark.done:
        raise StoreError(
            f"{path}: this store was moved to {mark.to}: name that with store.url. To use this file all the same,"
            f" without what has happened there since, run {back}"
        )
    raise StoreError(
        f"{path}: this store is being moved to {mark.to}: run that `tocsin store migrate` again, which goes on where it"
        f" was; or give it up with {back}"
    )


class LeavingStore:
    """A store that nobody else uses meanwhile."""

    def __init__(self, path: Path, driver: sqlite3.Connection) -> None:
        self.path = path
        self._driver = driver

    @property
    def mark(self) -> Mark | None:
        return mark_of(self._driver)

    def set_mark(self, to: str, *, done: bool) -> Mark:
        """From now on nobody else opens the store."""
        before = self.mark
        id = int.from_bytes(os.urandom(8)) >> 2 if before is None else before.id
        self._driver.execute(_SET_MARK, (id, _encode(_Where(to, done))))
        return Mark(id, to, done)

    def take_back(self) -> None:
        """The store is used again, as it is."""
        self._driver.execute(_REMOVE_MARK)

    def used_keys(self) -> list[str]:
        """The ids of the master keys that its records need."""
        return sealed_rows.used_keys(self._driver)

    def count(self, part: str) -> int:
        rows = f"event WHERE {_WHICH[part]}" if part in _WHICH else _rows_of(part)
        found: int = self._driver.execute(f"SELECT count(*) FROM {rows}").fetchone()[0]
        return found

    def rows(self, part: str, after: int | None = None) -> Iterator[tuple[int, Any]]:
        """The rows of a part after that number, in order, each with its number: tuples, or `EventRow`s."""
        first = _FIRST if after is None else after + 1
        if part in _WHICH:
            for row in self._driver.execute(_EVENT.format(which=_WHICH[part]), (first,)):
                yield row[0], self._event(*row)
            return
        plain = next(one for one in PLAIN if one.table == part)
        kinds = [kind for _, kind in plain.columns]
        for key, *values in self._driver.execute(_select(plain), (first,)):
            yield key, tuple(_value(value, kind) for value, kind in zip(values, kinds, strict=True))

    def _event(
        self,
        seq: int,
        id: str,
        owner: str,
        message: str,
        urgent: int,
        accepted_ms: int,
        expires_ms: int,
        state: int,
        dead: int,
        size: int,
        digest: bytes | None,
        attempts: str | None,
        body: bytes | None,
        round: int,
        settled_ms: int | None,
        content_key: int | None,
        waiting: int,
    ) -> EventRow:
        if state in (State.DONE, State.DEAD):
            # A version before 0006 has not noted when it was settled.
            settled_ms = accepted_ms if settled_ms is None else settled_ms
        return EventRow(
            EventId(id),
            UserId(owner),
            message,
            bool(urgent),
            accepted_ms,
            expires_ms,
            size,
            digest or b"",
            body or b"",
            content_key,
            None if state == State.ACCEPTED else f"[{attempts or ''}]",
            round,
            state == State.DEAD or (state == State.DELIVERING and bool(dead)),
            settled_ms,
            self._driver.execute(_PARKED, (seq,)).fetchall() if waiting else [],
        )


@contextmanager
def leaving(path: Path) -> Iterator[LeavingStore]:
    """The store at `path`; meanwhile nobody else opens it.

    Raises:
        StoreError: there is none, a server uses it, or it is of another version.
    """
    if not path.is_file():
        raise StoreError(f"{path}: there is no store")
    with maintenance.out_of_use(path):
        with explained(path):
            connection = open_connection(path)
        try:
            driver = raw(connection)
            with explained(path):
                _refuse_another_version(path, connection, driver)
            yield LeavingStore(path, driver)
        finally:
            close(connection)


def _refuse_another_version(path: Path, connection: Any, driver: sqlite3.Connection) -> None:
    try:
        current = is_current(connection)
    except MigrationError as error:
        raise StoreError(f"{path}: {error}") from None
    if not current or driver.execute(_OLD).fetchone()[0]:
        raise StoreError(
            f"{path}: is of another version: start `tocsin serve` of this version on it once, stop it, and try again"
        )


def _select(plain: Plain) -> str:
    columns = [_EXPRESSIONS.get((plain.table, name), f'"{name}"') for name, _ in plain.columns]
    return f"SELECT rowid, {', '.join(columns)} FROM {_rows_of(plain.table)} AND rowid >= ? ORDER BY rowid"


def _rows_of(table: str) -> str:
    return _WHERE_IT_IS.get(table, f"{table} WHERE TRUE")


def _value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    match kind:
        case "bool":
            return bool(value)
        case "bytea":
            return value.encode() if isinstance(value, str) else bytes(value)
        case _:
            return value
