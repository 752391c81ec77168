"""Partitions on PostgreSQL come and go under load, while a reader holds a snapshot: the rate, the longest answer."""

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
_OLD_ATTEMPTS: Final = 1_200_000
"""On record over 30 days: 20,000 events a day."""
_EVENTS: Final = 20_000
_ASK_EVERY_S: Final = 0.05


def coming_and_going(sizes: Sizes) -> Figures:
    """The rate while a week's partitions are made, detached and dropped, beside the rates before and after."""
    figures = Figures()
    with server_of_postgres() as server:
        url = new_database(server)
        with prepared([Group(sizes.users)], store_url=url) as environment:
            asyncio.run(search_postgres.fill(url, _OLD_ATTEMPTS))
            environment.start_server(TOCSIN_STORE__RETENTION=_FOR_EVER, TOCSIN_STORE__DEAD_LETTER_RETENTION=_FOR_EVER)
            warm_up(environment, environment.groups[0])
            # The index of what is on record already is made first.
            time.sleep(sizes.snapshot_s / 5)
            before = _rates(environment, sizes.snapshot_s / 5)
            changing = threading.Thread(target=lambda: asyncio.run(_change(environment, url, sizes.snapshot_s)))
            with _asking(environment) as answers_ms:
                changing.start()
                during = _rates(environment, sizes.snapshot_s)
                changing.join()
            after = _rates(environment, sizes.snapshot_s / 5)
            left = asyncio.run(_days(url))
            assert not left & set(_old_days()), left
    figures.add("partitions_share", statistics.median(during) / statistics.median(before + after))
    figures.add("partitions_answer_ms_max", max(answers_ms))
    figures.samples["partitions: events/s before"] = before
    figures.samples["partitions: events/s during"] = during
    figures.samples["partitions: events/s after"] = after
    return figures


def _rates(environment: Environment, for_s: float) -> list[float]:
    requests = load.batches(environment, _EVENTS, environment.groups[0])
    rates, until = list[float](), time.monotonic() + for_s
    while time.monotonic() < until:
        rates.append(_EVENTS / load.deliver(environment, requests, _EVENTS))
    return rates


def _old_days() -> list[int]:
    """The week that is dropped: the oldest one on record."""
    first = day_of(int(time.time() * 1000)) - search_postgres.DAYS
    return list(range(first, first + _WEEK_DAYS))


async def _change(environment: Environment, url: str, for_s: float) -> None:
    """Hold a snapshot, and meanwhile make a day's partitions and let an old one go, seven times; at last, without the
    snapshot, what could not be dropped because of it."""
    reader: Any = await asyncpg.connect(url)
    other: Any = await asyncpg.connect(url)
    transaction = reader.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    await reader.fetchval("SELECT count(*) FROM event WHERE seq < 10")
    today = day_of(int(time.time() * 1000))
    async with open_store(environment.settings) as store:
        for number, day in enumerate(_old_days(), 1):
            began = time.monotonic()
            async with other.transaction():
                await partitions.make(other, today + partitions.AHEAD_DAYS, today + partitions.AHEAD_DAYS + number)
            await store.prune(_older_than(day))
            await asyncio.sleep(max(0.0, for_s / _WEEK_DAYS - (time.monotonic() - began)))
        await transaction.rollback()
        for day in _old_days():
            await store.prune(_older_than(day))
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
def _asking(environment: Environment) -> Iterator[list[float]]:
    """One event after the other beside the load; how long each answer took, in milliseconds."""
    over = threading.Event()
    answers_ms: list[float] = []
    headers = {"authorization": f"Bearer {environment.producer_key}", "content-type": "application/json"}

    def ask() -> None:
        with httpx.Client(base_url=environment.url, headers=headers, trust_env=False, timeout=60) as client:
            while not over.wait(_ASK_EVERY_S):
                began = time.perf_counter()
                client.post("/api/events", content=fax(owner(0))).raise_for_status()
                answers_ms.append((time.perf_counter() - began) * 1000)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers_ms
    finally:
        over.set()
        asking.join()


if __name__ == "__main__":
    import sys

    from msgspec.structs import replace

    from benchmarks import report
    from benchmarks.sizes import FULL

    measured = coming_and_going(replace(FULL, snapshot_s=float(sys.argv[1])))
    print(report.table(measured))
    for what, rates in measured.samples.items():
        print(what, " ".join(f"{rate:.0f}" for rate in rates))
