"""Where the jobs of a connection run: beside the event loop, in the order in which they came.

A thread runs them in production. Whoever starts a store may bring another kind of worker, to have jobs run by a
scheduler of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Protocol

import structlog
from sqlalchemy import Connection

log = structlog.get_logger(__name__)

_MOST_JOBS_AT_ONCE: Final = 1000


class Job:
    """One call with the connection, and whom to answer."""

    __slots__ = ("alone", "call", "changed", "error", "future", "result")

    def __init__(self, call: Callable[[Connection], Any], future: asyncio.Future[Any], *, alone: bool = False) -> None:
        self.call = call
        self.future = future
        self.alone = alone
        """Whether it must not run within a transaction that others share."""
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


class Jobs(Protocol):
    """What a worker works on: a connection that runs jobs."""

    def run(self, jobs: list[Job]) -> None:
        """Run these, and leave in each its result or its error. Never raises."""

    def close(self) -> None: ...


class Worker(Protocol):
    def submit(self, job: Job) -> None:
        """Run the job after those before it, perhaps together with them, and answer its future in the event loop."""

    async def close(self) -> None:
        """Run what was submitted, then close the connection."""


StartWorker = Callable[[str, Jobs], Worker]


class ThreadWorker:
    """A thread that takes all jobs that have gathered, runs them together, and answers them together."""

    def __init__(self, name: str, jobs: Jobs) -> None:
        self._jobs = jobs
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._queue.put(job)

    async def close(self) -> None:
        self._queue.put(None)
        await self._ended
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            jobs: list[Job] = []
            gathered = self._queue.get()
            while gathered is not None:
                jobs.append(gathered)
                if len(jobs) >= _MOST_JOBS_AT_ONCE or self._queue.empty():
                    break
                gathered = self._queue.get()
            last = gathered is None
            if jobs:
                self._jobs.run(jobs)
            if last:
                self._jobs.close()
            self._answer(jobs, last)

    def _answer(self, jobs: list[Job], last: bool) -> None:
        def answer() -> None:
            for job in jobs:
                job.answer()
            if last:
                self._ended.set_result(None)

        try:
            self._loop.call_soon_threadsafe(answer)
        except RuntimeError:
            log.warning("the event loop ended before the store was closed")
