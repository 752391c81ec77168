"""A story that goes through every port of a store but `Access`, with nothing in it that comes from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from tests.contract.support import (
    ACCOUNT,
    EVERYTHING,
    OTHER_LANE,
    OTHER_OWNER,
    OWNER,
    TOKEN,
    attempt,
    done,
    keep,
    make_event,
    parked,
    registration,
)
from tests.sqlite.loop_worker import LoopWorkers
from tests.support.clocks import Clocks

from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Address, DeviceToken, Registration
from tocsin.domain.events import Event, UserId
from tocsin.store.records import DeadToken, Item, Learned, Result, Settlement, Signal
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

DAY_S = 24 * 3600.0


@asynccontextmanager
async def opened_with(path: Path, clocks: Clocks, random: Random, workers: LoopWorkers) -> AsyncIterator[SqliteStore]:
    """A server's store to which everything is given from outside. It looks for changes only where it is asked to."""
    options = SqliteOptions(
        max_events=10_000,
        max_bytes=1 << 30,
        lease_s=30,
        wall_clock=clocks.wall,
        monotonic=clocks.monotonic,
        random=random,
        start_worker=workers,
        say=lambda sentence: None,
    )
    store = await open_store(path, options, server=True)
    try:
        await store.start()
        assert store._noticing is not None
        store._noticing.cancel()
        yield store
    finally:
        await store.close()


async def story(store: SqliteStore, clocks: Clocks) -> list[Any]:
    """Append, claim, settle, register, delete, replay, and the rest; returns all that the store has answered."""
    signals: list[Signal] = []
    store.signals.subscribe(signals.append)
    told: list[Any] = [
        await _events(store, clocks),
        await _devices(store, clocks),
        await _credentials(store),
        await _jobs(store),
        await _housekeeping(store, clocks),
    ]
    return [*told, signals]


async def _events(store: SqliteStore, clocks: Clocks) -> list[Any]:
    events = [_event(clocks, number) for number in range(30)]
    await asyncio.gather(
        *(store.queue.append(events[start : start + 3]) for start in range(0, 30, 3)),
        *(store.registry.add(registration(token), 100) for token in ("a", "b", "c")),
    )
    await store.queue.append(events[:2])
    await store.queue.wait(0.01)
    items = await store.queue.claim(20)
    await store.queue.extend(items[:5])
    await store.queue.release(items[18:])
    settled: list[Any] = [
        *await asyncio.gather(
            store.queue.settle([done(item) for item in items[:6]]),
            store.queue.settle([parked(item, clocks.now_ms + 1000) for item in items[6:12]]),
            store.queue.settle([done(item, Result.REFUSED) for item in items[12:18]]),
            store.registry.delete(OWNER, "apns", DeviceToken("c")),
        )
    ]
    due = dict(await store.schedule.due())
    clocks.pass_time(2)
    parked_items = await store.schedule.claim_due(EVERYTHING)
    settled.append(
        await store.queue.settle([parked(item, clocks.now_ms + 10**6, lane=OTHER_LANE) for item in parked_items])
    )
    await store.schedule.wake([OTHER_LANE])
    woken = await store.schedule.claim_due(EVERYTHING)
    settled.append(await store.queue.settle([Settlement(item, [attempt("apns:a")], []) for item in woken]))
    page = await store.log.dead_letters(4)
    letters = [page, await store.log.dead_letters(4, start=page.next)]
    replayed = [await store.log.discard([page.letters[0].event.id]), await store.log.replay(None, 60_000)]
    again = await store.schedule.claim_due(EVERYTHING)
    await store.queue.settle([parked(item, clocks.now_ms + 10**6) for item in again])
    clocks.pass_time(120)
    expired = await store.schedule.expire(100)
    await store.queue.settle([done(item, Result.EXPIRED) for item in expired])
    rest = await store.queue.claim(100)
    records = [await store.log.record(event.id) for event in events]
    claims = [_shown(claimed) for claimed in (items, parked_items, woken, again, expired, rest)]
    return [claims, settled, due, letters, replayed, records, await store.queue.backlog()]


async def _devices(store: SqliteStore, clocks: Clocks) -> list[Any]:
    registry = store.registry
    for owner in (OWNER, OTHER_OWNER):
        await asyncio.gather(*(registry.add(_on_fcm(owner, token), 100) for token in ("d", "e")))
    evicted = await registry.add(registration("f"), 4)
    both = await asyncio.gather(registry.devices_of([OWNER]), registry.devices_of([OTHER_OWNER, OWNER]))
    devices = both[0][OWNER]
    await registry.learn([Learned(device, Address("project=main"), clocks.now_ms) for device in devices])
    dead = [DeadToken(device, ACCOUNT, "Unregistered") for device in devices[:2]]
    kept = [await registry.remove_dead(dead[:1]), await registry.remove_dead(dead[1:], quarantine=True)]
    quarantine = await registry.quarantine()
    back = [await registry.release_quarantine(ACCOUNT, 100), await registry.restore("fcm", devices[0].token, 100)]
    gone = [await registry.purge_quarantine(ACCOUNT), await registry.delete(OWNER, "apns", TOKEN, by_operator=True)]
    after = [await registry.devices_of([OWNER, OTHER_OWNER]), await registry.find(DeviceToken("d"))]
    return [evicted, both, kept, quarantine, back, gone, after, await registry.history()]


async def _credentials(store: SqliteStore) -> list[Any]:
    for account in ("main", "other"):
        await store.credentials.put(Credential("fcm", account, b"{}", changed_ms=store.now_ms()))
    before = await store.credentials.of("fcm")
    return [before, await store.credentials.remove("fcm", "main"), await store.credentials.of("fcm")]


async def _jobs(store: SqliteStore) -> list[Any]:
    jobs = store.jobs
    made = await asyncio.gather(*(jobs.create("replay", b"{}", total=total) for total in (None, 1, 2)))
    taken = await jobs.take(["replay"])
    assert taken is not None
    goes_on = await jobs.progress(taken.id, "1", done=2, skipped=1)
    ended = [await jobs.finish(taken.id), await jobs.stop(made[1].id)]
    return [made, taken, goes_on, ended, await jobs.get(made[2].id), (await jobs.page(10)).jobs]


async def _housekeeping(store: SqliteStore, clocks: Clocks) -> list[Any]:
    noticed = [await store.notice_changes()]
    clocks.pass_time(0.5)
    more = [await store.prune(keep(0, 0))]
    for _ in range(50):
        clocks.pass_time(DAY_S)
        more.append(await store.prune(keep(DAY_S, DAY_S)))
    overdue = await store.queue.claim(100)
    return [noticed, more, _shown(overdue), await store.nodes(), store.failures(), store.queue.may_send()]


def _event(clocks: Clocks, number: int) -> Event:
    return make_event(
        clocks,
        id=str(UUID(int=number, version=4)),
        owner=OWNER if number % 3 else OTHER_OWNER,
        urgent=number % 4 == 0,
        padding=number * 50,
    )


def _on_fcm(owner: UserId, token: str) -> Registration:
    return registration(token, owner=owner, provider="fcm", address="")


def _shown(items: Iterable[Item]) -> list[Any]:
    return [(item.event, item.targets, item.lane, item.tries, item.round, item.deadline) for item in items]
