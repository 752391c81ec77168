"""Opens the store: checks that it can be used, migrates it, and says clearly why not where it cannot."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from tocsin.store.migrations import NewerDatabase, migrate
from tocsin.store.sqlite.access import SqliteAccess
from tocsin.store.sqlite.applications import SqliteApplications
from tocsin.store.sqlite.database import SQLITE_NEEDED, Database, open_connection, raw
from tocsin.store.sqlite.queue import SqliteQueue
from tocsin.store.sqlite.registry import SqliteRegistry


_PRUNE_ROWS: Final = 500
_VACUUM_PAGES: Final = 200


class StoreError(Exception):
    """The store cannot be opened; the message names the file, the reason and the remedy."""


class Store:
    """Every port on one file."""

    def __init__(self, database: Database, *, max_events: int, max_bytes: int, lease_s: float) -> None:
        self.database = database
        self.queue = SqliteQueue(database, max_events=max_events, max_bytes=max_bytes, lease_s=lease_s)
        self.registry = SqliteRegistry(database)
        self.access = SqliteAccess(database)
        self.applications = SqliteApplications(database)
        self._version: int | None = None

    async def notice_changes(self) -> bool:
        """Whether another process has changed the file since the last call; what was remembered is then forgotten."""

        def version(connection: Connection) -> int:
            number: int
            (number,) = raw(connection).execute("PRAGMA data_version").fetchone()
            return number

        before, self._version = self._version, await self.database.write(version)
        if before is None or before == self._version:
            return False
        self.access.forget()
        self.applications.forget()
        self.queue.look_again()
        return True


    async def prune(self, retention_s: float, history_s: float) -> None:
        """Forget settled events and removed tokens that are older than this, a small step at a time."""
        now_ms = int(time.time() * 1000)
        events_before, removals_before = now_ms - int(retention_s * 1000), now_ms - int(history_s * 1000)
        while await self.database.write(lambda connection: _prune(raw(connection), events_before, removals_before)):
            await asyncio.sleep(0.05)


def _prune(driver: sqlite3.Connection, events_before_ms: int, removals_before_ms: int) -> bool:
    """One small step; whether there is more. The newest event stays: its number must not be given out again."""
    events = driver.execute(
        "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE state >= 2 AND accepted_ms < ?1 AND seq < "
        "(SELECT max(seq) FROM event) AND seq <= (SELECT min(seq) + 20000 FROM event) ORDER BY seq LIMIT ?2)",
        (events_before_ms, _PRUNE_ROWS),
    ).rowcount
    removals = driver.execute(
        "DELETE FROM removal WHERE id IN (SELECT id FROM removal WHERE removed_ms < ? LIMIT ?)",
        (removals_before_ms, _PRUNE_ROWS),
    ).rowcount
    driver.execute("DELETE FROM session WHERE expires_ms < ?", (removals_before_ms,))
    if events or removals:
        driver.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    return events == _PRUNE_ROWS or removals == _PRUNE_ROWS


@asynccontextmanager
async def open_store(
    path: Path, *, max_events: int, max_bytes: int, lease_s: float, exclusive: bool = False
) -> AsyncIterator[Store]:
    """Open (and create, and migrate) the store at `path`. `exclusive` is for the one server that delivers from it.

    Raises:
        StoreError: it cannot be used.
    """
    if sqlite3.sqlite_version_info < SQLITE_NEEDED:
        needed = ".".join(map(str, SQLITE_NEEDED))
        raise StoreError(f"SQLite {needed} or newer is needed; this Python is linked with {sqlite3.sqlite_version}")
    with _directory(path), _lock(path, exclusive=exclusive):
        try:
            _migrate(path)
            writer, reader = open_connection(path), open_connection(path, read_only=True)
        except (sqlite3.Error, DatabaseError) as error:
            raise StoreError(f"{path}: {_reason(error)}") from None
        database = Database(writer, reader)
        try:
            yield Store(database, max_events=max_events, max_bytes=max_bytes, lease_s=lease_s)
        finally:
            await database.close()


@contextmanager
def _directory(path: Path) -> Iterator[None]:
    """The database holds tokens and private keys: nobody but its user may read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"{path}: cannot be created: {error.strerror}") from None
    yield


@contextmanager
def _lock(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Held by the server for its life: two servers on one file would deliver everything twice."""
    if not exclusive:
        yield
        return
    lock = _open_lock(path.with_name(path.name + ".lock"))
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{path}: another tocsin server is using it; stop that one first") from None
        yield
    finally:
        lock.close()


def _open_lock(path: Path) -> IO[bytes]:
    try:
        return path.open("ab")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None


def _migrate(path: Path) -> None:
    with path.with_name(path.name + ".migrate-lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = open_connection(path)
        try:
            raw(connection).execute("BEGIN IMMEDIATE")
            migrate(connection)
            raw(connection).execute("COMMIT")
        except NewerDatabase as error:
            raise StoreError(f"{path}: {error}; upgrade tocsin, or restore a backup made by this version") from None
        finally:
            connection.close()
            connection.engine.dispose()


def _reason(error: Exception) -> str:
    text = str(getattr(error, "orig", None) or error)
    if "not a database" in text or "malformed" in text:
        return f"not a usable SQLite database ({text}); restore it from a backup"
    if "readonly" in text or "read-only" in text:
        return f"not writable ({text})"
    return text
