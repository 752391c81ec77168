"""One SQLite file, one thread that writes and one that reads: the event loop never waits for the disk.

The writer commits what has gathered while the commit before it ran (group commit), and answers nobody before the
fsync. A job is one call with the connection; it fails alone, unless the storage itself fails, which fails all that
shared the transaction. What the storage's failures are is told in `faults.py`.

sqlite3 gives up the GIL at every step of a statement and, with a busy event loop beside it, waits a whole switch
interval to get it back: 512 single inserts took 2 s that way, one insert of 512 rows 20 ms. So jobs write many rows
with one statement, and read many rows as one (`json_group_array`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from tocsin.store.ports import StoreUnavailable
from tocsin.store.sqlite.faults import is_corruption, sentence, storage_fault

T = TypeVar("T")

SQLITE_NEEDED: Final = (3, 38, 0)
BUSY_TIMEOUT_S: Final = 5.0
"""How long a transaction waits for another process that writes, before it is given up."""
_CHECKPOINT_PAGES: Final = 8000
_WAL_BYTES_KEPT: Final = 64 * 1024 * 1024
_MOST_JOBS_A_COMMIT: Final = 1000
_PROBE_BYTES: Final = 64 * 1024

log = structlog.get_logger(__name__)


class _Job:
    __slots__ = ("call", "changed", "error", "future", "result")

    def __init__(self, call: Callable[[Connection], Any] | None, future: asyncio.Future[Any]) -> None:
        self.call = call
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.changed = False
        """Whether the transaction it was part of has changed a row, and so has proved that the disk can be written."""

    def answer(self) -> None:
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result((self.result, self.changed))


def open_connection(path: Path, *, read_only: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Connection:
    """A connection whose transactions are begun and ended by hand (`AUTOCOMMIT` to SQLAlchemy)."""

    def connect() -> sqlite3.Connection:
        uri = f"file:{str(path).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}"
        raw = sqlite3.connect(
            f"{uri}?mode=ro" if read_only else uri,
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=busy_timeout_s,
            cached_statements=256,
        )
        if not read_only:
            raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
            raw.execute("PRAGMA journal_mode=WAL")
            raw.execute("PRAGMA synchronous=FULL")
            raw.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            raw.execute(f"PRAGMA journal_size_limit={_WAL_BYTES_KEPT}")
        raw.execute("PRAGMA temp_store=MEMORY")
        return raw

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def raw(connection: Connection) -> sqlite3.Connection:
    """The driver's connection, for the hand-written statements of the hot path."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


class _Thread:
    """A thread with a connection of its own, that runs jobs in the order they came."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._connection = connection
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[Connection], T]) -> asyncio.Future[tuple[T, bool]]:
        future: asyncio.Future[tuple[T, bool]] = self._loop.create_future()
        if self._closing:
            future.set_exception(StoreUnavailable("the store is closed"))
        else:
            self._jobs.put(_Job(call, future))
        return future

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            future: asyncio.Future[None] = self._loop.create_future()
            self._jobs.put(_Job(None, future))
            await future
            self._thread.join()

    def _gather(self) -> list[_Job]:
        jobs = [self._jobs.get()]
        while len(jobs) < _MOST_JOBS_A_COMMIT and not self._jobs.empty():
            jobs.append(self._jobs.get())
        return jobs

    def _run(self) -> None:
        while True:
            jobs = self._gather()
            work = [job for job in jobs if job.call is not None]
            if work:
                self._execute(work)
            last = jobs[-1]
            if last.call is None:
                self._connection.close()
                self._connection.engine.dispose()
            self._answer(jobs)
            if last.call is None:
                return

    def _answer(self, jobs: list[_Job]) -> None:
        def answer() -> None:
            for job in jobs:
                job.answer()

        try:
            self._loop.call_soon_threadsafe(answer)
        except RuntimeError:
            log.warning("the event loop ended before the store was closed")

    def _execute(self, jobs: list[_Job]) -> None:
        for job in jobs:
            assert job.call is not None
            try:
                job.result = job.call(self._connection)
            except Exception as error:
                fault = storage_fault(error)
                job.error = error if fault is None else StoreUnavailable(sentence(fault))
                job.error.__cause__ = fault


class _Writer(_Thread):
    """Runs all the jobs that have gathered in one transaction, a savepoint each, and answers after the commit."""

    _lost = False
    """Whether a commit that was refused may stand in the log."""

    def _execute(self, jobs: list[_Job]) -> None:
        driver = raw(self._connection)
        before = driver.total_changes
        committing = False
        try:
            if self._lost:
                self._overwrite_what_was_lost(driver)
            driver.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run_alone(driver, job, alone=len(jobs) == 1)
            committing = True
            driver.execute("COMMIT")
        except BaseException as error:
            # Disk full, I/O error, locked, read-only: nothing of this transaction is durable, so nobody is told so.
            self._roll_back(driver)
            fault = storage_fault(error)
            if fault is not None and committing:
                with contextlib.suppress(sqlite3.Error):
                    self._overwrite_what_was_lost(driver)
            for job in jobs:
                if fault is None:
                    job.error = job.error or error
                else:
                    job.error = StoreUnavailable(sentence(fault))
                    job.error.__cause__ = fault
            return
        changed = driver.total_changes != before
        for job in jobs:
            job.changed = changed

    def _overwrite_what_was_lost(self, driver: sqlite3.Connection) -> None:
        """A commit whose sync failed stands whole in the log, and the next process would take it for good: what was
        refused would be delivered after all. Other frames in its place make it void, synced or not.

        Until these are written and synced, every transaction begins with them, and fails with them.
        """
        self._lost = True
        try:
            driver.execute("BEGIN IMMEDIATE")
            _fill(self._connection)
            driver.execute("COMMIT")
        except BaseException:
            self._roll_back(driver)
            raise
        self._lost = False

    def _roll_back(self, driver: sqlite3.Connection) -> None:
        if driver.in_transaction:
            try:
                driver.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.error("rollback failed", error=str(error))

    def _run_alone(self, driver: sqlite3.Connection, job: _Job, *, alone: bool) -> None:
        """Run one job so that it can fail without the others, unless the storage is what failed."""
        assert job.call is not None
        if alone:
            job.result = job.call(self._connection)
            return
        driver.execute("SAVEPOINT job")
        try:
            job.result = job.call(self._connection)
        except Exception as error:
            # SQLite may have rolled the whole transaction back by itself: then there is nothing to go on with.
            if storage_fault(error) is not None or not driver.in_transaction:
                raise
            job.error = error
            driver.execute("ROLLBACK TO job")
        driver.execute("RELEASE job")


class Database:
    """The file with its two threads."""

    def __init__(self, writer: Connection, reader: Connection) -> None:
        self._writer = _Writer("tocsin-store-writer", writer)
        self._reader = _Thread("tocsin-store-reader", reader)
        self.write_fault: str | None = None
        """Why the last write failed, until one succeeds again."""
        self.read_fault: str | None = None
        """Why the last read failed, until one succeeds again."""
        self._damage: str | None = None
        self._closing = False

    @property
    def fault(self) -> str | None:
        """What is wrong with the storage: readiness tells it."""
        return self.write_fault or self.read_fault

    def refuse_if_damaged(self) -> None:
        """For what would be acknowledged: from a damaged file it may never be read again, whatever a commit says.

        Raises:
            StoreUnavailable: the file is known to be damaged.
        """
        if self._damage is not None:
            raise StoreUnavailable(self._damage)

    async def write(self, call: Callable[[Connection], T]) -> T:
        """Run `call` in the next group's transaction; returns after its commit.

        Raises:
            StoreUnavailable: the storage failed and nothing was written. What `call` itself raises comes through.
        """
        try:
            result, changed = await self._writer.submit(call)
        except StoreUnavailable as error:
            self._failed(error)
            raise
        if changed and self.write_fault is not None and self._damage is None:
            log.info("the store writes again")
            self.write_fault = None
        return result

    def _failed(self, error: StoreUnavailable) -> None:
        if self._closing:
            return
        if self.write_fault is None:
            log.error("the store cannot write", error=str(error))
        self.write_fault = str(error)
        # No later success heals a damaged file: it stays a fault until it is restored and opened again.
        if self._damage is None and is_corruption(error.__cause__):
            self._damage = str(error)

    async def probe(self) -> bool:
        """Whether the store can write. Where it could not, or not read, it is tried: `fault` then clears by itself.

        A transaction that changes nothing succeeds on a full disk too. So this one needs new pages, and gives them
        back in a second transaction, where those that follow find them.
        """
        if self.read_fault is not None:
            with contextlib.suppress(StoreUnavailable):
                await self.read(_look)
        if self.write_fault is None:
            return True
        try:
            await self.write(_fill)
            await self.write(_empty)
        except StoreUnavailable:
            return False
        return self.write_fault is None

    async def read(self, call: Callable[[Connection], T]) -> T:
        """Run `call` on the reader, which sees everything that was committed before.

        Raises:
            StoreUnavailable: the storage failed.
        """
        try:
            result, _ = await self._reader.submit(call)
        except StoreUnavailable as error:
            self._read_failed(error)
            raise
        if self.read_fault is not None:
            log.info("the store reads again")
            self.read_fault = None
        return result

    def _read_failed(self, error: StoreUnavailable) -> None:
        if is_corruption(error.__cause__):
            self._failed(error)
        elif not self._closing:
            if self.read_fault is None:
                log.error("the store cannot read", error=str(error))
            self.read_fault = str(error)

    async def close(self) -> None:
        self._closing = True
        await self._reader.close()
        await self._writer.close()


def _fill(connection: Connection) -> None:
    raw(connection).execute(
        "INSERT OR REPLACE INTO housekeeping(name, filling) VALUES ('probe', zeroblob(?))", (_PROBE_BYTES,)
    )


def _look(connection: Connection) -> None:
    driver = raw(connection)
    driver.execute("PRAGMA shrink_memory")  # what is in the cache can be read from any disk
    driver.execute("SELECT max(seq) FROM event").fetchone()


def _empty(connection: Connection) -> None:
    raw(connection).execute("DELETE FROM housekeeping WHERE name = 'probe'")
