"""Where jobs run is for whoever opens the store to say: threads in production, or a worker of another kind."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Connection
from tests.contract.support import OWNER, done, ids, make_event, registration
from tests.sqlite.loop_worker import LoopWorkers
from tests.sqlite.opened import opened
from tests.sqlite.story import opened_with, story
from tests.support.clocks import Clocks

from tocsin.domain.devices import DeviceToken
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Backlog, Result, State
from tocsin.store.sqlite.store import SqliteStore
from tocsin.store.sqlite.worker import Job, ThreadWorker


@pytest.fixture
def workers() -> LoopWorkers:
    return LoopWorkers()


@pytest.fixture
async def store(tmp_path: Path, clocks: Clocks, workers: LoopWorkers) -> AsyncIterator[SqliteStore]:
    async with opened_with(tmp_path / "tocsin.db", clocks, Random(1), workers) as store:
        yield store


# -- a worker of another kind ------------------------------------------------------------------------------------------


async def test_an_event_goes_all_the_way_without_a_thread(store: SqliteStore, clocks: Clocks) -> None:
    before = set(threading.enumerate())
    await store.registry.add(registration("a"), 10)
    events = [make_event(clocks) for _ in range(3)]
    await asyncio.gather(*(store.queue.append([event]) for event in events))
    items = await store.queue.claim(10)
    assert ids(items) == [event.id for event in events]
    results = (Result.DELIVERED, Result.REFUSED, Result.DELIVERED)
    assert await store.queue.settle([done(*pair) for pair in zip(items, results, strict=True)]) == [True] * 3
    assert await store.log.replay(None, 60_000) == 1
    (again,) = await store.schedule.claim_due(dict.fromkeys(await store.schedule.due(), 10))
    assert (again.event.id, again.event.body) == (events[1].id, events[1].body)
    assert (again.targets, again.round) == (("apns:a",), 1)
    assert await store.queue.settle([done(again)]) == [True]
    assert await store.registry.delete(OWNER, "apns", DeviceToken("a"))
    assert await store.registry.devices_of([OWNER]) == {}
    assert await store.queue.backlog() == Backlog(0, 0)
    assert set(threading.enumerate()) <= before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tocsin-store")]


async def test_every_port_works_without_a_thread(store: SqliteStore, clocks: Clocks, workers: LoopWorkers) -> None:
    before = set(threading.enumerate())
    await story(store, clocks)
    assert set(threading.enumerate()) <= before
    assert sorted(workers.started) == ["tocsin-store-reader", "tocsin-store-writer"]
    assert workers.reader.batches
    assert max(workers.writer.batches) > 1


async def test_the_worker_is_closed_with_the_store(tmp_path: Path, clocks: Clocks, workers: LoopWorkers) -> None:
    async with opened_with(tmp_path / "tocsin.db", clocks, Random(1), workers):
        assert not workers.writer.closed
    assert workers.writer.closed
    assert workers.reader.closed
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.endswith("lock")) == [
        "tocsin.db",
        "tocsin.db.key",
    ]


async def test_what_was_submitted_when_the_store_is_closed_is_on_record(
    tmp_path: Path, clocks: Clocks, workers: LoopWorkers
) -> None:
    event = make_event(clocks)
    async with opened_with(tmp_path / "tocsin.db", clocks, Random(1), workers) as store:
        appending = asyncio.ensure_future(store.queue.append([event]))
        while not workers.writer._waiting:
            await asyncio.sleep(0)
    await appending
    async with opened_with(tmp_path / "tocsin.db", clocks, Random(1), LoopWorkers()) as store:
        record = await store.log.record(event.id)
        assert record is not None
        assert record.state is State.ACCEPTED


async def test_writes_that_gather_are_one_transaction_and_fail_one_by_one(
    store: SqliteStore, workers: LoopWorkers
) -> None:
    def put(*names: str) -> Callable[[sqlite3.Connection], int]:
        insert = "INSERT INTO housekeeping(name, number) VALUES (?, 1)"
        return lambda driver: sum(driver.execute(insert, (name,)).rowcount for name in names)

    jobs = (put("a"), put("undone", "a"), put("b", "c"))
    answers = await asyncio.gather(*map(store.database.write, jobs), return_exceptions=True)
    assert workers.writer.batches[-1] == 3
    assert [answers[0], type(answers[1]), answers[2]] == [1, sqlite3.IntegrityError, 2]
    names = "SELECT group_concat(name) FROM (SELECT name FROM housekeeping WHERE number = 1 ORDER BY name)"
    assert await store.database.read(lambda driver: driver.execute(names).fetchone()) == ("a,b,c",)
    assert store.failures() == []


async def test_a_storage_failure_refuses_all_that_gathered(
    store: SqliteStore, clocks: Clocks, workers: LoopWorkers
) -> None:
    def fail(driver: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        raise error

    event = make_event(clocks)
    answers = await asyncio.gather(
        store.registry.add(registration("a"), 10),
        store.queue.append([event]),
        store.database.write(fail),
        return_exceptions=True,
    )
    assert workers.writer.batches[-1] == 3
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    assert len(store.failures()) == 1
    assert await store.log.record(event.id) is None
    assert await store.registry.devices_of([OWNER]) == {}
    await store.queue.append([event])
    assert store.failures() == []


# -- threads -----------------------------------------------------------------------------------------------------------


def of_the_store() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("tocsin-store"))


async def test_a_store_has_one_thread_that_writes_and_one_that_reads_as_long_as_it_is_open(tmp_path: Path) -> None:
    async with opened(tmp_path / "tocsin.db"):
        assert of_the_store() == ["tocsin-store-reader", "tocsin-store-writer"]
    assert of_the_store() == []


class Recorded:
    """Runs jobs without a connection, and tells in which thread and how many together. See `worker.Jobs`."""

    def __init__(self) -> None:
        self.gathered = threading.Event()
        self.ran: list[tuple[str, int]] = []
        self.closed = False

    def run(self, jobs: list[Job]) -> None:
        self.gathered.wait(10)
        self.ran.append((threading.current_thread().name, len(jobs)))
        for job in jobs:
            job.result = job.call(None)  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


async def test_a_thread_runs_together_what_gathered_meanwhile_and_answers_in_order() -> None:
    jobs = Recorded()
    worker = ThreadWorker("of this test", jobs)
    order: list[int] = []
    futures = []
    for number in range(20):
        future: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
        worker.submit(Job(_returns(number), future))
        futures.append(future)
    jobs.gathered.set()
    assert await asyncio.gather(*futures) == [(number, False) for number in range(20)]
    assert order == list(range(20))
    assert {name for name, _ in jobs.ran} == {"of this test"}
    assert sum(count for _, count in jobs.ran) == 20
    assert len(jobs.ran) <= 20
    await worker.close()


async def test_a_thread_that_is_closed_has_run_what_was_submitted_and_ends() -> None:
    jobs = Recorded()
    worker = ThreadWorker("of this test", jobs)
    futures = [asyncio.get_running_loop().create_future() for _ in range(5)]
    for number, future in enumerate(futures):
        worker.submit(Job(_returns(number), future))
    jobs.gathered.set()
    await worker.close()
    assert [future.result()[0] for future in futures] == list(range(5))
    assert jobs.closed
    assert "of this test" not in [thread.name for thread in threading.enumerate()]


async def test_a_caller_that_is_gone_is_not_answered_and_its_job_is_run() -> None:
    jobs = Recorded()
    worker = ThreadWorker("of this test", jobs)
    gone: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
    stays: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
    ran: list[int] = []
    worker.submit(Job(lambda _: ran.append(1), gone))
    worker.submit(Job(_returns(2), stays))
    gone.cancel()
    jobs.gathered.set()
    assert (await stays)[0] == 2
    assert ran == [1]
    await worker.close()


def _returns(number: int) -> Callable[[Connection], int]:
    return lambda _: number
