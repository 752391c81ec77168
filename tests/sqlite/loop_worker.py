"""A worker of the tests' own: it runs jobs by the event loop, those that have gathered together, and has no thread."""

from __future__ import annotations

import asyncio

from tocsin.store.sqlite.worker import Job, Jobs


class LoopWorker:
    """See `worker.Worker`. What is submitted in one turn of the event loop runs together in a later one."""

    def __init__(self, name: str, jobs: Jobs) -> None:
        self.name = name
        self.batches: list[int] = []
        """How many jobs ran together, each time."""
        self.closed = False
        self.holds_answers = False
        """Whether jobs wait for their answers, when they have run, until `answer` is called."""
        self._jobs = jobs
        self._waiting: list[Job] = []
        self._unanswered: list[Job] = []
        self._loop = asyncio.get_running_loop()

    def submit(self, job: Job) -> None:
        if not self._waiting:
            self._loop.call_soon(self._run)
        self._waiting.append(job)

    async def close(self) -> None:
        self._run()
        self._jobs.close()
        self.closed = True

    def _run(self) -> None:
        jobs, self._waiting = self._waiting, []
        if jobs:
            self.batches.append(len(jobs))
            self._jobs.run(jobs)
            self._unanswered += jobs
            if not self.holds_answers:
                self.answer()

    def answer(self) -> None:
        """Answer all that have run, in their order."""
        jobs, self._unanswered = self._unanswered, []
        for job in jobs:
            job.answer()


class LoopWorkers:
    """Starts them (`worker.StartWorker`), and keeps those that it has started, by their names."""

    def __init__(self) -> None:
        self.started: dict[str, LoopWorker] = {}

    def __call__(self, name: str, jobs: Jobs) -> LoopWorker:
        self.started[name] = LoopWorker(name, jobs)
        return self.started[name]

    @property
    def writer(self) -> LoopWorker:
        return self.started["tocsin-store-writer"]

    @property
    def reader(self) -> LoopWorker:
        return self.started["tocsin-store-reader"]
