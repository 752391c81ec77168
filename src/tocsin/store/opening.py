"""Opens the store: checks that it can be used, migrates it, and says clearly why not where it cannot."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tocsin.store.migrations import MigrationError, NewerDatabaseError, is_current, migrate
from tocsin.store.ports import StoreUnavailable
from tocsin.store.sqlite import queue_sql
from tocsin.store.sqlite.access import SqliteAccess
from tocsin.store.sqlite.applications import SqliteApplications
from tocsin.store.sqlite.database import SQLITE_NEEDED, Database, open_connection, raw
from tocsin.store.sqlite.dead_letters import SqliteDeadLetters
from tocsin.store.sqlite.faults import is_corruption, os_sentence, sentence, storage_fault
from tocsin.store.sqlite.housekeeping import Housekeeping
from tocsin.store.sqlite.queue import SqliteQueue
from tocsin.store.sqlite.registry import SqliteRegistry

_LOCK_WAIT_S: Final = 30.0
_PRUNE_FOR_S: Final = 1.0
_MENDABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})


class StoreError(Exception):
    """The store cannot be opened; the message names the file, the reason and the remedy."""


class StoreFault(StoreError):  # noqa: N818 (it says what is so)
    """The storage fails at present; once that is mended the same call works. `reason` does without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class Store:
    """Every port on one file."""

    def __init__(
        self,
        database: Database,
        *,
        max_events: int,
        max_bytes: int,
        lease_s: float,
        version: int | None = None,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.queue = SqliteQueue(
            database,
            max_events=max_events,
            max_bytes=max_bytes,
            lease_s=lease_s,
            wall_clock=wall_clock,
            monotonic=monotonic,
        )
        self.dead_letters = SqliteDeadLetters(database, self.queue, wall_clock=wall_clock)
        self.registry = SqliteRegistry(database, wall_clock=wall_clock)
        self.access = SqliteAccess(database, wall_clock=wall_clock)
        self.applications = SqliteApplications(database)
        self._housekeeping = Housekeeping(database, wall_clock=wall_clock, monotonic=monotonic)
        self._version = version

    async def notice_changes(self) -> bool:
        """Whether another process has changed the file since the last call; what was remembered is then forgotten.

        Where the store could not write, this is also when it tries again.

        Raises:
            StoreUnavailable: the store cannot write.
        """
        await self.database.probe()
        before = self._version

        def look(connection: Connection) -> tuple[int, queue_sql.Seen | None]:
            driver = raw(connection)
            version = data_version(driver)
            return version, None if version == before else queue_sql.look(driver)

        self._version, seen = await self.database.write(look)
        if seen is None or before is None:
            return False
        self.access.forget()
        self.applications.forget()
        self.registry.forget()
        await self.queue.learn(seen)
        return True

    async def prune(self, retention_s: float, history_s: float, *, for_s: float = _PRUNE_FOR_S) -> bool:
        """Forget settled events and removed tokens that are older than this, in small steps, for about `for_s`.

        Ids of events are remembered for 24 hours at least. Returns whether there is more to forget.
        """
        return await self._housekeeping.prune(retention_s, history_s, for_s=for_s)


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    max_events: int,
    max_bytes: int,
    lease_s: float,
    exclusive: bool = False,
    wall_clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Store]:
    """Open (and create, and migrate) the store at `path`. `exclusive` is for the one server that delivers from it.

    Raises:
        StoreError: it cannot be used.
        StoreFault: it cannot be used at present.
    """
    if sqlite3.sqlite_version_info < SQLITE_NEEDED:
        needed = ".".join(map(str, SQLITE_NEEDED))
        raise StoreError(f"SQLite {needed} or newer is needed; this Python is linked with {sqlite3.sqlite_version}")
    with ExitStack() as held:
        # Beside the event loop: it may wait for a lock, and a migration takes its time.
        writer, reader, version = await asyncio.to_thread(_open, path, held, exclusive=exclusive)
        database = Database(writer, reader)
        try:
            yield Store(
                database,
                max_events=max_events,
                max_bytes=max_bytes,
                lease_s=lease_s,
                version=version,
                wall_clock=wall_clock,
                monotonic=monotonic,
            )
        finally:
            await database.close()


async def take_over(store: Store, path: Path) -> None:
    """Begin to deliver from the store at `path`, where the server before left off.

    Raises:
        StoreError, StoreFault: as `open_store`.
    """
    with _told(path):
        await store.queue.start()


def data_version(driver: sqlite3.Connection) -> int:
    """A number that changes when another connection has changed the file."""
    version: int
    (version,) = driver.execute("PRAGMA data_version").fetchone()
    return version


def _open(path: Path, held: ExitStack, *, exclusive: bool) -> tuple[Connection, Connection, int]:
    """The connections that write and read, and the version of what they found."""
    with _told(path):
        _create(path)
        _migrate(path, held, exclusive=exclusive)
        writer = open_connection(path)
        held.callback(_close, writer)
        reader = open_connection(path, read_only=True)
        held.callback(_close, reader)
        return writer, reader, data_version(raw(writer))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever prevents the opening becomes one message."""
    try:
        yield
    except NewerDatabaseError as error:
        raise StoreError(f"{path}: {error}; upgrade tocsin, or restore a backup made by this version") from None
    except MigrationError as error:
        raise StoreError(f"{path}: {error}; name another file with store.path") from None
    except OSError as error:
        if error.errno in _MENDABLE:
            raise StoreFault(path, os_sentence(error)) from None
        raise StoreError(f"{path}: {os_sentence(error)}") from None
    except (sqlite3.Error, DBAPIError, StoreUnavailable) as error:
        fault = storage_fault(error.__cause__ or error)
        if fault is not None and not is_corruption(fault):
            raise StoreFault(path, sentence(fault)) from None
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise StoreError(f"{path}: {sentence(cause) if isinstance(cause, sqlite3.Error) else cause}") from None


def _create(path: Path) -> None:
    """The database holds tokens and private keys: nobody but its user may read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.is_dir():  # which SQLite reports like a lack of rights
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _migrate(path: Path, held: ExitStack, *, exclusive: bool) -> None:
    """Bring the file to the current schema, and take it for the server's life if `exclusive`.

    One process at a time. A server keeps the other lock: two on one file would deliver everything twice, and none may
    find the schema changed under it by a newer version's command.
    """
    with _locked(path, ".migrate-lock", wait_s=_LOCK_WAIT_S, otherwise="another process is migrating it; try again"):
        connection = open_connection(path)
        with ExitStack() as while_migrating:
            while_migrating.callback(_close, connection)
            driver = raw(connection)
            current = is_current(connection)
            if exclusive or not current:
                (held if exclusive else while_migrating).enter_context(
                    _locked(path, ".lock", wait_s=0, otherwise="another tocsin server is using it; stop that one first")
                )
            if not current:
                driver.execute("BEGIN IMMEDIATE")
                migrate(connection)
                driver.execute("COMMIT")
            if exclusive:
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


def _close(connection: Connection) -> None:
    connection.close()
    connection.engine.dispose()


@contextmanager
def _locked(path: Path, suffix: str, *, wait_s: float, otherwise: str) -> Iterator[None]:
    """Held as long as the process lives, or shorter: a lock of one that died is nobody's."""
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
