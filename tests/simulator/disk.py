"""The store's jobs in virtual time, on real SQLite: they run by the event loop, after delays that the seed decides.

A crash is a copy of what was synced. Every commit is synced before its jobs are answered (`synchronous=FULL`), and a
transaction runs at one instant of virtual time: so the file and its log hold just what was synced.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

from sqlalchemy import Connection

from tocsin.store.sqlite import transactions
from tocsin.store.sqlite.connection import raw
from tocsin.store.sqlite.worker import Job, Jobs

_MOST_JOBS_AT_ONCE: Final = 1000
_NO_LIMIT_PAGES: Final = 1_073_741_823


class Disk:
    """How fast the storage is at present, and whether it has room. One for all lives of tocsin in a simulation."""

    def __init__(self, random: Random, commit_s: float) -> None:
        self.random = random
        self.commit_s = commit_s
        """How long a commit takes on average."""
        self.full = False
        self.failing = False
        """Whether every commit ends in an I/O error."""
        self._stalled_until_s = 0.0
        self._loop = asyncio.get_running_loop()

    def stall(self, seconds: float) -> None:
        """For so long no job ends."""
        self._stalled_until_s = self._loop.time() + seconds

    def mend(self) -> None:
        self.full = self.failing = False

    def draw_s(self, *, writes: bool) -> float:
        """How long a part of a job takes from now."""
        mean_s = self.commit_s if writes else self.commit_s / 10
        waits_s = max(0.0, self._stalled_until_s - self._loop.time())
        return waits_s + min(self.random.expovariate(1 / mean_s), 20 * mean_s)


class FailingDriver:
    """A connection whose commits fail with an I/O error. What they would have written is rolled back: what a failed
    sync leaves in the log is the subject of `tests/power_loss` and `tests/torture`."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
            raise error
        return self._driver.execute(sql, *arguments)


class SimulatedWorker:
    """See `tocsin.store.sqlite.worker.Worker`: jobs that have gathered run together, one batch after another."""

    def __init__(self, name: str, jobs: Jobs, disk: Disk) -> None:
        self.name = name
        self._jobs: Any = jobs
        self._disk = disk
        self._writes = name.endswith("writer")
        self._full = False
        self._waiting: list[Job] = []
        self._busy = False
        self._dead = False
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        if not self._busy and not self._dead:
            self._begin()

    async def close(self) -> None:
        if not self._dead:
            await self._idle.wait()
        self._jobs.close()

    def die(self) -> None:
        """The process is gone: nothing more runs, and nobody is answered."""
        self._dead = True

    def _begin(self) -> None:
        self._busy = True
        self._idle.clear()
        self._loop.call_later(self._disk.draw_s(writes=self._writes), self._run)

    def _run(self) -> None:
        if self._dead:
            return
        jobs, self._waiting = self._waiting[:_MOST_JOBS_AT_ONCE], self._waiting[_MOST_JOBS_AT_ONCE:]
        if self._writes and self._full is not self._disk.full:
            self._full = self._disk.full
            # SQLite never makes it smaller than the file is: so the file cannot grow, as on a full disk.
            raw(self._jobs._connection).execute(f"PRAGMA max_page_count = {1 if self._full else _NO_LIMIT_PAGES}")
        with patch.object(transactions, "raw", self._failing_driver) if self._disk.failing else nullcontext():
            self._jobs.run(jobs)
        self._loop.call_later(self._disk.draw_s(writes=self._writes), self._answer, jobs)

    @staticmethod
    def _failing_driver(connection: Connection) -> Any:
        return FailingDriver(raw(connection))

    def _answer(self, jobs: list[Job]) -> None:
        if self._dead:
            return
        for job in jobs:
            job.answer()
        if self._waiting:
            self._begin()
        else:
            self._busy = False
            self._idle.set()


class SimulatedWorkers:
    """Starts the workers of one life (`worker.StartWorker`), and ends them with it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._started: list[SimulatedWorker] = []

    def __call__(self, name: str, jobs: Jobs) -> SimulatedWorker:
        worker = SimulatedWorker(name, jobs, self._disk)
        self._started.append(worker)
        return worker

    def die(self) -> None:
        for worker in self._started:
            worker.die()


def copy_of_what_was_synced(path: Path, directory: Path) -> Path:
    """The database, its write-ahead log and the master key as a crash leaves them, elsewhere; returns the new path."""
    directory.mkdir(mode=0o700)
    for suffix in ("", "-wal", ".key"):
        left = path.with_name(path.name + suffix)
        if left.exists():
            shutil.copy(left, directory / left.name)
    return directory / path.name
