"""Lanes are woken in small steps, since every other write waits for one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from tests.contract.support import DAY_MS, EVERYTHING, LANE, OTHER_LANE, claim, make_event, parked
from tests.support.clocks import Clocks
from tests.support.sqlite import SqliteStores

from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import LanesWoken, Signal
from tocsin.store.sqlite import schedule
from tocsin.store.sqlite.store import SqliteStore


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "STEP_ROWS", 3)


async def park(store: SqliteStore, clocks: Clocks, number: int, lane: str, *, urgent: bool = False) -> None:
    await store.queue.append([make_event(clocks, urgent=urgent) for _ in range(number)])
    items = await claim(store, number, {})
    await store.queue.settle([parked(item, clocks.now_ms + DAY_MS, lane=lane) for item in items])


class Writes:
    """Counts the rows that each write changes, and lets the one after `succeed` fail."""

    def __init__(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write = store.database.write
        self.changed: list[int] = []
        self.succeed = 1000
        monkeypatch.setattr(store.database, "write", self.write)

    async def write(self, job: Callable[[sqlite3.Connection], Any]) -> Any:
        if len(self.changed) == self.succeed:
            raise StoreUnavailable("the disk is full")

        def counted(driver: sqlite3.Connection) -> Any:
            before = driver.total_changes
            answer = job(driver)
            self.changed.append(driver.total_changes - before)
            return answer

        return await self._write(counted)


async def test_no_write_wakes_more_than_some_rows(
    store: SqliteStore, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement over 200,000 of them took 1.5 seconds, and everybody waited."""
    await park(store, clocks, 7, LANE)
    await park(store, clocks, 4, LANE, urgent=True)
    await park(store, clocks, 2, OTHER_LANE)
    heard: list[Signal] = []
    store.signals.subscribe(heard.append)
    writes = Writes(store, monkeypatch)
    await store.schedule.wake([LANE, OTHER_LANE])
    assert sum(writes.changed) == 13
    assert max(writes.changed) == 3
    assert heard == [LanesWoken((LANE, OTHER_LANE))]
    assert len(await store.schedule.claim_due(EVERYTHING)) == 13


async def test_what_is_parked_while_a_lane_is_woken_waits_for_its_own_time(
    store: SqliteStore, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it might never end, where as many are parked as a step wakes."""
    await park(store, clocks, 4, LANE)
    wake = schedule._wake

    def parks_more(driver: sqlite3.Connection, *arguments: Any) -> Any:
        driver.execute(
            "INSERT INTO parked(seq, lane, urgent, due_ms, expires_ms, tries, targets, claimed)"
            " SELECT seq, lane, urgent, ?, expires_ms, tries, targets, 0 FROM parked LIMIT 3",
            (clocks.now_ms + DAY_MS,),
        )
        return wake(driver, *arguments)

    monkeypatch.setattr(schedule, "_wake", parks_more)
    await store.schedule.wake([LANE])
    assert len(await store.schedule.claim_due(EVERYTHING)) == 4


async def test_what_was_not_woken_to_the_end_is_woken_when_it_is_repeated(
    stores: SqliteStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, command = await stores.open(), await stores.open(server=False)
    await park(store, clocks, 8, LANE)
    with monkeypatch.context() as patched:
        writes = Writes(command, patched)
        writes.succeed = 2
        with pytest.raises(StoreUnavailable):
            await command.schedule.wake([LANE])
        assert writes.changed == [0, 3]
    await command.schedule.wake([LANE])
    signals = await store.database.read(lambda driver: driver.execute("SELECT count(*) FROM signal").fetchone()[0])
    assert signals == 1
    await store.notice_changes()
    assert len(await store.schedule.claim_due(EVERYTHING)) == 8
