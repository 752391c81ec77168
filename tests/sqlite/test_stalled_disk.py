"""A disk that takes longer than a lease: who has delivered and cannot settle yet keeps what he owns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest
from tests.contract.support import done, make_event
from tests.sqlite.loop_worker import LoopWorker, LoopWorkers
from tests.sqlite.story import opened_with
from tests.support.clocks import Clocks
from tests.support.sqlite import LEASE_S

from tocsin.store.records import Item
from tocsin.store.sqlite.store import SqliteStore
from tocsin.store.sqlite.worker import Jobs


class StallingWorker(LoopWorker):
    """Runs nothing while it is told to stand still."""

    stalled = False

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def _run(self) -> None:
        if not self.stalled:
            super()._run()

    def go_on(self) -> None:
        self.stalled = False
        self._run()


class StallingWorkers(LoopWorkers):
    def __call__(self, name: str, jobs: Jobs) -> StallingWorker:
        worker = self.started[name] = StallingWorker(name, jobs)
        return worker


@pytest.fixture
def workers() -> StallingWorkers:
    return StallingWorkers()


@pytest.fixture
async def store(tmp_path: Path, clocks: Clocks, workers: StallingWorkers) -> AsyncIterator[SqliteStore]:
    async with opened_with(tmp_path / "tocsin.db", clocks, Random(1), workers) as store:
        yield store


def writer_of(workers: StallingWorkers) -> StallingWorker:
    worker = workers.writer
    assert isinstance(worker, StallingWorker)
    return worker


@pytest.mark.parametrize("claimed_while_it_stalls", [True, False])
async def test_nothing_is_offered_again_because_the_disk_took_longer_than_a_lease(
    store: SqliteStore, clocks: Clocks, workers: StallingWorkers, claimed_while_it_stalls: bool
) -> None:
    lost: list[Item] = []

    def told(items: Sequence[Item]) -> None:
        lost.extend(items)

    store.queue.when_lost(told)
    await store.queue.append([make_event(clocks), make_event(clocks)])
    first, second = await store.queue.claim(10)
    writer = writer_of(workers)
    writer.stalled = True
    settling = asyncio.ensure_future(store.queue.settle([done(first)]))
    while not writer.has_work:
        await asyncio.sleep(0)
    clocks.pass_time(LEASE_S + 1)
    if claimed_while_it_stalls:
        assert await store.queue.claim(10) == []
    writer.go_on()
    assert await settling == [True]
    assert await store.queue.claim(10) == []
    assert lost == []
    assert await store.queue.settle([done(second)]) == [True]


async def test_a_lease_still_ends_where_the_disk_is_well(store: SqliteStore, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks)])
    (item,) = await store.queue.claim(10)
    clocks.pass_time(LEASE_S + 1)
    (again,) = await store.queue.claim(10)
    assert again.event.id == item.event.id
