"""Opens the SQLite file: checks that it can be used, migrates it, and says clearly why not where it cannot."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from tocsin.store.ports import StoreError
from tocsin.store.sqlite.connection import SQLITE_NEEDED, close, data_version, open_connection, raw
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.failures import explained
from tocsin.store.sqlite.migrations import MigrationError, NewerDatabaseError, is_current, migrate
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

_LOCK_WAIT_S: Final = 30.0


async def open_store(path: Path, options: SqliteOptions, *, server: bool = False) -> SqliteStore:
    """Open (and create, and migrate) the store at `path`. `server` is for the one process that delivers from it.

    Raises:
        StoreError: it cannot be used.
        StorageFailure: it cannot be used at present.
    """
    if sqlite3.sqlite_version_info < SQLITE_NEEDED:
        needed = ".".join(map(str, SQLITE_NEEDED))
        raise StoreError(f"SQLite {needed} or newer is needed; this Python is linked with {sqlite3.sqlite_version}")
    with ExitStack() as held:
        # Beside the event loop: it may wait for a lock, and a migration takes its time.
        writer, reader, version = await asyncio.to_thread(_open, path, held, server=server)
        database = Database(writer, reader, options.start_worker)
        return SqliteStore(path, database, options, version=version, server=server, held=held.pop_all())


def _open(path: Path, held: ExitStack, *, server: bool) -> tuple[Connection, Connection, int]:
    """The connections that write and read, and the version of what they found."""
    with explained(path):
        _create(path)
        try:
            _migrate(path, held, server=server)
        except NewerDatabaseError as error:
            raise StoreError(f"{path}: {error}; upgrade tocsin, or restore a backup made by this version") from None
        except MigrationError as error:
            raise StoreError(f"{path}: {error}; name another file with store.path") from None
        writer = open_connection(path)
        held.callback(close, writer)
        reader = open_connection(path, read_only=True)
        held.callback(close, reader)
        return writer, reader, data_version(raw(writer))


def _create(path: Path) -> None:
    """The database holds tokens and private keys: nobody but its user may read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.is_dir():  # which SQLite reports like a lack of rights
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _migrate(path: Path, held: ExitStack, *, server: bool) -> None:
    """Bring the file to the current schema. A `server` keeps the lock on it for as long as it lives.

    One process migrates at a time. Two servers on one file would deliver everything twice, and none may find the schema
    changed under it by a newer version's command.
    """
    with _locked(path, ".migrate-lock", wait_s=_LOCK_WAIT_S, otherwise="another process is migrating it; try again"):
        connection = open_connection(path)
        with ExitStack() as while_migrating:
            while_migrating.callback(close, connection)
            driver = raw(connection)
            current = is_current(connection)
            if server or not current:
                (held if server else while_migrating).enter_context(
                    _locked(path, ".lock", wait_s=0, otherwise="another tocsin server is using it; stop that one first")
                )
            if not current:
                driver.execute("BEGIN IMMEDIATE")
                migrate(connection)
                driver.execute("COMMIT")
            if server:
                # Writes and syncs a page, and changes nothing: a server that cannot write finds out here.
                driver.execute("PRAGMA user_version = 0")


@contextmanager
def out_of_use(path: Path) -> Iterator[None]:
    """Meanwhile no server uses the store at `path`, and nobody opens it.

    Raises:
        StoreError: a server uses it.
    """
    with (
        _locked(path, ".migrate-lock", wait_s=_LOCK_WAIT_S, otherwise="another process is migrating it; try again"),
        _locked(path, ".lock", wait_s=0, otherwise="a tocsin server is using it; stop that one first"),
    ):
        yield


@contextmanager
def _locked(path: Path, suffix: str, *, wait_s: float, otherwise: str) -> Iterator[None]:
    """A lock file, held until the end of the context, or of the process."""
    with path.with_name(path.name + suffix).open("ab") as lock:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StoreError(f"{path}: {otherwise}") from None
                time.sleep(0.02)
        yield
