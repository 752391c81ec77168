"""One SQLite file, one worker that writes and one that reads: the event loop never waits for the disk.

The writer commits what has gathered while the commit before it ran (group commit), and answers nobody before the
fsync. What counts as a failure of the storage is in `failures.py`.

sqlite3 gives up the GIL at every step of a statement and, with a busy event loop beside it, waits a whole switch
interval to get it back: 512 single inserts took 2 s that way, one insert of 512 rows 20 ms. So jobs write many rows
with one statement, and read many rows as one (`json_group_array`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

from tocsin.histogram import COMMIT_S, Histogram
from tocsin.store.ports import StoreUnavailable
from tocsin.store.sqlite.connection import raw
from tocsin.store.sqlite.failures import is_corruption
from tocsin.store.sqlite.transactions import Reads, Writes, empty_pages, fill_pages
from tocsin.store.sqlite.worker import Job, StartWorker, ThreadWorker, Worker

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Database:
    """The file with its two workers. Not safe to share between event loops."""

    def __init__(
        self,
        writer: Connection,
        reader: Connection,
        start_worker: StartWorker = ThreadWorker,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._monotonic = monotonic
        self.commits = Histogram(COMMIT_S)
        """How long commits took, counted by the writer."""
        self._writer = start_worker("tocsin-store-writer", Writes(writer, self.commits, monotonic))
        self._reader = start_worker("tocsin-store-reader", Reads(reader))
        self.write_failure: str | None = None
        """Why the last write failed, until one succeeds again."""
        self.read_failure: str | None = None
        """Why the last read failed, until one succeeds again."""
        self._damage: str | None = None
        self._closed = False
        self._unanswered: dict[asyncio.Future[Any], float] = {}
        """The writes that are under way, the oldest first, and since when."""
        self._longest_wait_s = 0.0

    def refuse_if_damaged(self) -> None:
        """For what would be acknowledged: from a damaged file it may never be read again, whatever a commit says.

        Raises:
            StoreUnavailable: the file is known to be damaged.
        """
        if self._damage is not None:
            raise StoreUnavailable(self._damage)

    async def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` in the next group's transaction; returns after its commit.

        Raises:
            StoreUnavailable: the storage failed and nothing was written. What `job` itself raises comes through.
        """
        return await self.write_with(lambda connection: job(raw(connection)))

    async def write_alone(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` on the writer, between the transactions of the others: it begins and ends its own. It is for what
        changes nothing that anybody reads: where its commit fails, that may take effect after all.

        Raises:
            StoreUnavailable: the storage failed.
        """
        return await self.write_with(lambda connection: job(raw(connection)), alone=True)

    async def read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` on the reader, which sees everything that was committed before.

        Raises:
            StoreUnavailable: the storage failed.
        """
        return await self.read_with(lambda connection: job(raw(connection)))

    async def write_with(self, call: Callable[[Connection], T], *, alone: bool = False) -> T:
        """`write` (or `write_alone`), with SQLAlchemy's connection."""
        answer = self._submit(self._writer, call, alone=alone)
        asked = self._unanswered[answer] = self._monotonic()
        try:
            result, changed = await answer
        except StoreUnavailable as error:
            self._write_failed(error)
            raise
        finally:
            del self._unanswered[answer]
            self._longest_wait_s = max(self._longest_wait_s, self._monotonic() - asked)
        if changed and self.write_failure is not None and self._damage is None:
            log.info("the store writes again")
            self.write_failure = None
        return result

    async def read_with(self, call: Callable[[Connection], T]) -> T:
        """`read`, with SQLAlchemy's connection."""
        try:
            result, _ = await self._submit(self._reader, call)
        except StoreUnavailable as error:
            self._read_failed(error)
            raise
        if self.read_failure is not None:
            log.info("the store reads again")
            self.read_failure = None
        return result

    def longest_wait_s(self) -> float:
        """How long a write has waited for its answer, at most, since this was asked last; it may wait still."""
        longest_s, self._longest_wait_s = self._longest_wait_s, 0.0
        for asked in self._unanswered.values():
            return max(longest_s, self._monotonic() - asked)
        return longest_s

    async def probe(self) -> bool:
        """Whether the store can write. Where it could not, or not read, it is tried: the failure then clears by itself.

        A transaction that changes nothing succeeds on a full disk too. So this one needs new pages, and gives them
        back in a second transaction.
        """
        if self.read_failure is not None:
            with contextlib.suppress(StoreUnavailable):
                await self.read(_look)
        if self.write_failure is None:
            return True
        try:
            await self.write_with(fill_pages)
            await self.write_with(empty_pages)
        except StoreUnavailable:
            return False
        return self.write_failure is None

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._reader.close()
            await self._writer.close()

    def _submit(
        self, worker: Worker, call: Callable[[Connection], T], *, alone: bool = False
    ) -> asyncio.Future[tuple[T, bool]]:
        future: asyncio.Future[tuple[T, bool]] = self._loop.create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the store is closed"))
        else:
            worker.submit(Job(call, future, alone=alone))
        return future

    def _write_failed(self, error: StoreUnavailable) -> None:
        if self._closed:
            return
        if self.write_failure is None:
            log.error("the store cannot write", error=str(error))
        self.write_failure = str(error)
        # No later success heals a damaged file: it stays so until it is restored and opened again.
        if self._damage is None and is_corruption(error.__cause__):
            self._damage = str(error)

    def _read_failed(self, error: StoreUnavailable) -> None:
        if is_corruption(error.__cause__):
            self._write_failed(error)
        elif not self._closed:
            if self.read_failure is None:
                log.error("the store cannot read", error=str(error))
            self.read_failure = str(error)


def _look(driver: sqlite3.Connection) -> None:
    driver.execute("PRAGMA shrink_memory")  # what is in the cache can be read from any disk
    driver.execute("SELECT max(seq) FROM event").fetchone()
