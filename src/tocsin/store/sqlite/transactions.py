"""How jobs run on a connection: reads one by one, writes together in one transaction (group commit).

A job fails alone, unless the storage itself fails, which fails all that shared the transaction. A job that asks for it
runs outside of that transaction, after it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Connection

from tocsin.histogram import Histogram
from tocsin.store.ports import StoreUnavailable
from tocsin.store.sqlite.connection import close, raw
from tocsin.store.sqlite.failures import sentence, storage_failure
from tocsin.store.sqlite.worker import Job

log = structlog.get_logger(__name__)

_PROBE_BYTES: Final = 64 * 1024


class Reads:
    """Runs jobs that only read. See `worker.Jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                job.result = job.call(self._connection)
            except Exception as error:
                job.error = _told(error)

    def close(self) -> None:
        close(self._connection)


class Writes:
    """Runs the jobs that have gathered in one transaction, a savepoint each. See `worker.Jobs`.

    `commits` gets how long each commit of a transaction that has changed something took, by `monotonic` (seconds).
    """

    def __init__(self, connection: Connection, commits: Histogram, monotonic: Callable[[], float]) -> None:
        self._connection = connection
        self._commits = commits
        self._monotonic = monotonic
        self._refused_commit_in_log = False
        """Whether a commit that was refused may stand in the write-ahead log."""

    def close(self) -> None:
        close(self._connection)

    def run(self, jobs: list[Job]) -> None:
        together = [job for job in jobs if not job.alone]
        if together:
            self._run_together(together)
        if len(together) < len(jobs):
            for job in jobs:
                if job.alone:
                    self._run_outside(job)

    def _run_outside(self, job: Job) -> None:
        """It changes nothing that anybody is told of, so nothing that it has failed to commit has to be made void."""
        driver = raw(self._connection)
        try:
            if self._refused_commit_in_log:
                self._overwrite_refused_commit(driver)
            job.result = job.call(self._connection)
        except BaseException as error:
            _roll_back(driver)
            job.error = _told(error)

    def _run_together(self, jobs: list[Job]) -> None:
        driver = raw(self._connection)
        before = driver.total_changes
        committing = False
        try:
            if self._refused_commit_in_log:
                self._overwrite_refused_commit(driver)
            driver.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run_one(driver, job, alone=len(jobs) == 1)
            committing = True
            began = self._monotonic()
            driver.execute("COMMIT")
            took_s = self._monotonic() - began
        except BaseException as error:
            # Disk full, I/O error, locked, read-only: nothing of this transaction is durable, so nobody is told so.
            _roll_back(driver)
            failure = storage_failure(error)
            if failure is not None and committing:
                with contextlib.suppress(sqlite3.Error):
                    self._overwrite_refused_commit(driver)
            for job in jobs:
                job.error = _told(error) if failure is not None else job.error or error
            return
        changed = driver.total_changes != before
        if changed:
            self._commits.observe((took_s,))
        for job in jobs:
            job.changed = changed

    def _overwrite_refused_commit(self, driver: sqlite3.Connection) -> None:
        """A commit whose sync failed stands whole in the log, and the next process would take it for good: what was
        refused would be delivered after all. Other frames in its place make it void, synced or not.

        Until these are written and synced, every transaction begins with them, and fails with them.
        """
        self._refused_commit_in_log = True
        try:
            driver.execute("BEGIN IMMEDIATE")
            fill_pages(self._connection)
            driver.execute("COMMIT")
        except BaseException:
            _roll_back(driver)
            raise
        self._refused_commit_in_log = False

    def _run_one(self, driver: sqlite3.Connection, job: Job, *, alone: bool) -> None:
        """Run one job so that it can fail without the others, unless the storage is what failed."""
        if alone:
            job.result = job.call(self._connection)
            return
        driver.execute("SAVEPOINT job")
        try:
            job.result = job.call(self._connection)
        except Exception as error:
            # SQLite may have rolled the whole transaction back by itself: then there is nothing to go on with.
            if storage_failure(error) is not None or not driver.in_transaction:
                raise
            job.error = error
            driver.execute("ROLLBACK TO job")
        driver.execute("RELEASE job")


def fill_pages(connection: Connection) -> None:
    """Write some pages that nothing needs: a transaction that changes nothing succeeds on a full disk, too."""
    raw(connection).execute(
        "INSERT OR REPLACE INTO housekeeping(name, filling) VALUES ('probe', zeroblob(?))", (_PROBE_BYTES,)
    )


def empty_pages(connection: Connection) -> None:
    """Give the pages of `fill_pages` back to the file, where the next transactions find them."""
    raw(connection).execute("DELETE FROM housekeeping WHERE name = 'probe'")


def _roll_back(driver: sqlite3.Connection) -> None:
    if driver.in_transaction:
        try:
            driver.execute("ROLLBACK")
        except sqlite3.Error as error:
            log.error("rollback failed", error=str(error))


def _told(error: BaseException) -> BaseException:
    """What the job's caller gets: storage that failed becomes `StoreUnavailable`."""
    failure = storage_failure(error)
    if failure is None:
        return error
    unavailable = StoreUnavailable(sentence(failure))
    unavailable.__cause__ = failure
    return unavailable
