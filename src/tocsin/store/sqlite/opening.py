"""Opens the SQLite file: checks that it can be used, migrates it, and says clearly why not where it cannot."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Connection

from tocsin.store.master_keys import beside
from tocsin.store.ports import StoreError
from tocsin.store.sealer import Sealer
from tocsin.store.sqlite import locks
from tocsin.store.sqlite.connection import SQLITE_NEEDED, close, data_version, open_connection, raw
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.durable import make_directory
from tocsin.store.sqlite.encrypting import encrypt_rest
from tocsin.store.sqlite.failures import explained
from tocsin.store.sqlite.leaving import refuse_moved
from tocsin.store.sqlite.locks import LockHeld
from tocsin.store.sqlite.migrations import MigrationError, NewerDatabaseError, is_current, migrate
from tocsin.store.sqlite.sealed_rows import open_sealer
from tocsin.store.sqlite.spilling import spills_beside
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

_LOCK_WAIT_S: Final = 30.0
_SERVER_LOCK_WAIT_S: Final = 0.2
_ASK_AGAIN_S: Final = 0.02


async def open_store(path: Path, options: SqliteOptions, *, server: bool = False) -> SqliteStore:
    """Open (and create, and migrate) the store at `path`. `server` is for the one process that delivers from it.

    Raises:
        StoreError: it cannot be used.
        StorageFailure: it cannot be used at present.
    """
    if sqlite3.sqlite_version_info < SQLITE_NEEDED:
        needed = ".".join(map(str, SQLITE_NEEDED))
        raise StoreError(f"SQLite {needed} or newer is needed; this Python is linked with {sqlite3.sqlite_version}")
    with ExitStack() as held, ExitStack() as while_opening, explained(path):
        _create(path)
        await _enter_within(_LOCK_WAIT_S, partial(locks.migrating, path), while_opening)
        if server:
            # For a moment, `store check` and `backup` hold these, too.
            await _enter_within(_SERVER_LOCK_WAIT_S, partial(locks.serving, path), held)
        else:
            locks.refuse_another_name(path)
        # Beside the event loop: a migration takes its time.
        opened = await asyncio.to_thread(_open, path, options, held, server=server)
        database = Database(opened.writer, opened.reader, options.start_worker, options.monotonic)
        return SqliteStore(
            path, database, options, opened.sealer, version=opened.version, server=server, held=held.pop_all()
        )


async def _enter_within(wait_s: float, lock: Callable[[], AbstractContextManager[None]], stack: ExitStack) -> None:
    """Take a lock, as soon as nobody else has it.

    Raises:
        LockHeld: somebody has it for longer than `wait_s`.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        try:
            stack.enter_context(lock())
            return
        except LockHeld:
            if loop.time() >= until:
                raise
        await asyncio.sleep(_ASK_AGAIN_S)


class _Opened(NamedTuple):
    writer: Connection
    reader: Connection
    sealer: Sealer
    version: int
    """Of what they found."""


def _open(path: Path, options: SqliteOptions, held: ExitStack, *, server: bool) -> _Opened:
    try:
        sealer = _migrate(path, options, server=server)
    except NewerDatabaseError as error:
        raise StoreError(f"{path}: {error}; upgrade tocsin, or restore a backup made by this version") from None
    except MigrationError as error:
        raise StoreError(f"{path}: {error}; name another file with store.path") from None
    writer = open_connection(path)
    held.callback(close, writer)
    reader = open_connection(path, read_only=True)
    held.callback(close, reader)
    return _Opened(writer, reader, sealer, data_version(raw(writer)))


def _create(path: Path) -> None:
    """The database holds tokens and private keys: nobody but its user may read it."""
    if path.is_dir():  # which SQLite reports like a lack of rights
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not path.exists():
        # The file's own name is durable when the log beside it is: SQLite syncs the directory with that.
        make_directory(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _migrate(path: Path, options: SqliteOptions, *, server: bool) -> Sealer:
    """Bring the file to the current schema, and find its master keys; one process does at a time.

    A server holds its lock already. A command takes it meanwhile: no server may find the schema changed under it by a
    newer version's command.
    """
    with ExitStack() as while_migrating:
        if not server and _is_behind(path):
            while_migrating.enter_context(locks.serving(path))
        connection = open_connection(path)
        while_migrating.callback(close, connection)
        driver = raw(connection)
        if not is_current(connection):
            with spills_beside(driver, path):
                driver.execute("BEGIN IMMEDIATE")
                migrate(connection)
                driver.execute("COMMIT")
        refuse_moved(driver, path)
        if server:
            # Writes and syncs a page, and changes nothing: a server that cannot write finds out here.
            driver.execute("PRAGMA user_version = 0")
        keys, random = beside(path) if options.keys is None else options.keys, options.random.randbytes
        sealer = open_sealer(driver, keys, random, server=server, say=options.say)
        if server:
            with spills_beside(driver, path):
                encrypt_rest(driver, Contents(sealer, random, wall_clock=options.wall_clock), options.say)
        return sealer


def _is_behind(path: Path) -> bool:
    connection = open_connection(path)
    try:
        return not is_current(connection)
    finally:
        close(connection)
