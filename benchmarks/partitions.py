"""Partitions on PostgreSQL come and go under load, while a reader holds a snapshot: the rate, the longest answer.

In two phases, each told of apart. While the snapshot is held a week's partitions are made and attached; of the old
week the settlements and the index go, and its events cannot, since the snapshot holds the first of their days. When the
snapshot has ended they go, a day at a time. The load goes on until the last of them is gone.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
import httpx
from msgspec import Struct

from benchmarks import load, search_postgres
from benchmarks.environment import Environment, Group, fax, owner, prepared
from benchmarks.postgres import new_database, server_of_postgres
from benchmarks.report import Figures
from benchmarks.sizes import Sizes
from benchmarks.throughput import warm_up
from tocsin.store.opening import open_store
from tocsin.store.postgres import partitions
from tocsin.store.postgres.places import DAY_MS, day_of
from tocsin.store.records import Retention

_FOR_EVER: Final = "9999d"
_WEEK_DAYS: Final = 7
_EVENTS: Final = 20_000
_ASK_EVERY_S: Final = 0.05


class Measured(Struct, frozen=True):
    """Something that took from one time to another (monotonic)."""

    began: float
    ended: float
    value: float
    """Events/s, or the milliseconds of an answer."""

    def is_beside(self, other: tuple[float, float]) -> bool:
        return self.began < other[1] and other[0] < self.ended


class Phases(Struct):
    """From when to when what was done (monotonic)."""

    attach: tuple[float, float] = (0.0, 0.0)
    drops: list[tuple[float, float]] = []


def coming_and_going(sizes: Sizes) -> Figures:
    """The rate while a week's partitions are made, and while one is dropped, beside the rates before and after."""
    figures, phases = Figures(), Phases()
    with server_of_postgres() as server:
        url = new_database(server)
        with prepared([Group(sizes.users)], store_url=url) as environment:
            asyncio.run(search_postgres.fill(url, 2 * _WEEK_DAYS * sizes.old_day, days=_WEEK_DAYS, ago=2 * _WEEK_DAYS))
            environment.start_server(TOCSIN_STORE__RETENTION=_FOR_EVER, TOCSIN_STORE__DEAD_LETTER_RETENTION=_FOR_EVER)
            warm_up(environment, environment.groups[0])
            asyncio.run(_index_is_made(environment))
            before = _rates(environment, for_s=sizes.snapshot_s / 5)
            changing = threading.Thread(
                target=lambda: asyncio.run(_change(environment, url, sizes.snapshot_s, phases)), daemon=True
            )
            with _asking(environment) as answers:
                changing.start()
                during = _rates(environment, beside=changing)
                changing.join()
            after = _rates(environment, for_s=sizes.snapshot_s / 5)
            left = asyncio.run(_days(url))
            assert not left & set(_old_days()), left
    usual = statistics.median([one.value for one in before + after])
    for name, spans in (("partitions", [phases.attach]), ("partitions_drop", phases.drops)):
        rates = [one.value for one in during if any(map(one.is_beside, spans))]
        figures.add(f"{name}_share", statistics.median(rates) / usual)
        figures.add(f"{name}_answer_ms_max", max(one.value for one in answers if any(map(one.is_beside, spans))))
        figures.samples[f"{name}: events/s"] = rates
    figures.samples["seconds to drop each day"] = [ended - began for began, ended in phases.drops]
    figures.samples["partitions: events/s before"] = [one.value for one in before]
    figures.samples["partitions: events/s after"] = [one.value for one in after]
    return figures


def _rates(environment: Environment, *, for_s: float = 0.0, beside: threading.Thread | None = None) -> list[Measured]:
    """One after the other, for so long, and as long as the other thread is at work."""
    requests = load.batches(environment, _EVENTS, environment.groups[0])
    rates, until = list[Measured](), time.monotonic() + for_s
    while time.monotonic() < until or (beside is not None and beside.is_alive()):
        began = time.monotonic()
        rate = _EVENTS / load.deliver(environment, requests, _EVENTS)
        rates.append(Measured(began, time.monotonic(), rate))
    return rates


def _old_days() -> list[int]:
    """The week that is dropped."""
    first = day_of(int(time.time() * 1000)) - 2 * _WEEK_DAYS
    return list(range(first, first + _WEEK_DAYS))


async def _index_is_made(environment: Environment) -> None:
    """Returns when the index of the search has all that is on record: it takes CPU."""
    async with open_store(environment.settings) as store:
        while (state := await store.search.state()).rebuilding or state.behind_s > 1:
            await asyncio.sleep(1.0)


async def _change(environment: Environment, url: str, for_s: float, phases: Phases) -> None:
    reader: Any = await asyncpg.connect(url)
    other: Any = await asyncpg.connect(url)
    transaction = reader.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    await reader.fetchval("SELECT count(*) FROM event WHERE seq < 10")
    today = day_of(int(time.time() * 1000))
    async with open_store(environment.settings) as store:
        start = time.monotonic()
        for number, day in enumerate(_old_days(), 1):
            began = time.monotonic()
            async with other.transaction():
                await partitions.make(other, today + partitions.AHEAD_DAYS, today + partitions.AHEAD_DAYS + number)
            await store.prune(_older_than(day))
            await asyncio.sleep(max(0.0, for_s / _WEEK_DAYS - (time.monotonic() - began)))
        phases.attach = start, time.monotonic()
        await transaction.rollback()
        for day in _old_days():
            began = time.monotonic()
            # What must wait for a lock for longer than two seconds is tried again, as a node does.
            while day in await partitions.existing(other, "event"):
                await store.prune(_older_than(day))
            phases.drops.append((began, time.monotonic()))
            await asyncio.sleep(for_s / 5 / _WEEK_DAYS)
    await reader.close()
    await other.close()


def _older_than(day: int) -> Retention:
    """That which forgets this day and those before it."""
    events_s = time.time() - (day + 1) * DAY_MS / 1000 - 1
    return Retention(events_s=events_s, dead_letters_s=10 * events_s, removals_s=10 * events_s)


async def _days(url: str) -> set[int]:
    connection: Any = await asyncpg.connect(url)
    try:
        return set(await partitions.existing(connection, "event"))
    finally:
        await connection.close()


@contextmanager
def _asking(environment: Environment) -> Iterator[list[Measured]]:
    """One event after the other beside the load; how long each answer took (ms)."""
    over = threading.Event()
    answers: list[Measured] = []
    headers = {"authorization": f"Bearer {environment.producer_key}", "content-type": "application/json"}

    def ask() -> None:
        with httpx.Client(base_url=environment.url, headers=headers, trust_env=False, timeout=60) as client:
            while not over.wait(_ASK_EVERY_S):
                began = time.monotonic()
                client.post("/api/events", content=fax(owner(0))).raise_for_status()
                ended = time.monotonic()
                answers.append(Measured(began, ended, (ended - began) * 1000))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        over.set()
        asking.join()


if __name__ == "__main__":
    import sys

    from msgspec.structs import replace

    from benchmarks import report
    from benchmarks.sizes import FULL

    measured = coming_and_going(replace(FULL, snapshot_s=float(sys.argv[1]), old_day=int(sys.argv[2])))
    print(report.table(measured))
    for what, rates in measured.samples.items():
        print(what, " ".join(f"{rate:.0f}" for rate in rates))
