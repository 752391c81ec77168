"""What is old is forgotten in small steps, and the file does not grow without bound."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
from tests.contract.support import (
    ACCOUNT,
    DAY_MS,
    EVERYTHING,
    OWNER,
    TOKEN,
    claim,
    done,
    ids,
    keep,
    make_event,
    parked,
    register,
)
from tests.support.clocks import Clocks
from tests.support.sqlite import SqliteStores

from tocsin.domain.events import Event
from tocsin.store.ports import EventIdConflict
from tocsin.store.records import DeadToken
from tocsin.store.sqlite import housekeeping
from tocsin.store.sqlite.store import SqliteStore

DAY_S = DAY_MS / 1000
WEEK_S = 7 * DAY_S


@pytest.fixture(autouse=True)
def every_call_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "_SWEEP_EVERY_S", 0.0)
    monkeypatch.setattr(housekeeping, "_PAUSE_S", 0.0)


async def settled(store: SqliteStore, clocks: Clocks, number: int, padding: int = 0) -> list[Event]:
    events = [make_event(clocks, padding=padding) for _ in range(number)]
    await store.queue.append(events)
    assert await store.queue.settle([done(item) for item in await claim(store, number, {})]) == [True] * number
    return events


async def known(store: SqliteStore, events: list[Event]) -> list[bool]:
    return [await store.log.record(event.id) is not None for event in events]


async def pages(store: SqliteStore) -> int:
    count: int = await store.database.read(lambda driver: driver.execute("PRAGMA page_count").fetchone()[0])
    return count


async def test_settled_events_are_forgotten_after_their_time_and_not_before(store: SqliteStore, clocks: Clocks) -> None:
    old = await settled(store, clocks, 1200)
    clocks.pass_time(WEEK_S - 10)
    await store.prune(keep(WEEK_S, WEEK_S))
    assert all(await known(store, old))
    young = await settled(store, clocks, 10)
    clocks.pass_time(20)
    while await store.prune(keep(WEEK_S, WEEK_S)):
        pass
    assert not any(await known(store, old))
    assert all(await known(store, young))


async def test_what_is_not_settled_is_never_forgotten(store: SqliteStore, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks) for _ in range(700)])
    items = await claim(store, 700, {})
    await store.queue.settle([parked(item, clocks.now_ms) for item in items[:300]])
    await store.queue.settle([done(item) for item in items[300:600]])
    clocks.pass_time(8 * DAY_S)
    await store.queue.append([make_event(clocks)])
    await store.prune(keep(WEEK_S, WEEK_S))
    record = [await store.log.record(item.event.id) is not None for item in items]
    assert record == [True] * 300 + [False] * 300 + [True] * 100


async def test_what_stands_at_the_head_for_long_keeps_nothing_behind_it(store: SqliteStore, clocks: Clocks) -> None:
    """Tens of thousands that wait for weeks once kept everything after them from being forgotten."""
    await store.queue.append([make_event(clocks) for _ in range(25_000)])
    waiting: list[str] = []
    while items := await claim(store, 5000, {}):
        await store.queue.settle([parked(item, clocks.now_ms + DAY_MS) for item in items])
        waiting += ids(items)
    behind = await settled(store, clocks, 100)
    clocks.pass_time(8 * DAY_S)
    await settled(store, clocks, 1)
    while await store.prune(keep(WEEK_S, WEEK_S), for_s=0.2):
        pass
    assert not any(await known(store, behind))
    assert len(waiting) == (await store.queue.backlog()).events == 25_000


async def test_what_was_passed_over_is_forgotten_by_a_later_sweep(store: SqliteStore, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks) for _ in range(10)])
    items = await claim(store, 10, {})
    clocks.pass_time(8 * DAY_S)
    await settled(store, clocks, 1)
    await store.prune(keep(WEEK_S, WEEK_S))
    clocks.pass_time(1)
    for item in await claim(store, 10, EVERYTHING):
        await store.queue.settle([done(item)])
    await store.prune(keep(WEEK_S, WEEK_S))
    assert all(await known(store, [item.event for item in items]))
    clocks.pass_time(WEEK_S + 1)
    await store.prune(keep(WEEK_S, WEEK_S))
    assert not any(await known(store, [item.event for item in items]))


async def test_an_id_is_remembered_for_24_hours_whatever_the_retention(store: SqliteStore, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    await store.queue.settle([done(item) for item in await claim(store, 1, {})])
    clocks.pass_time(DAY_S - 60)
    await settled(store, clocks, 1)
    await store.prune(keep(0, 0))
    await store.queue.append([event])
    assert await claim(store, 10, {}) == []
    with pytest.raises(EventIdConflict):
        await store.queue.append([make_event(clocks, id=event.id, padding=1)])
    clocks.pass_time(120)
    await store.prune(keep(0, 0))
    assert await store.log.record(event.id) is None


async def test_an_event_after_everything_was_forgotten_is_delivered(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await settled(store, clocks, 20)
    clocks.pass_time(30 * DAY_S)
    await store.prune(keep(0, 0))
    for _ in range(2):
        event = make_event(clocks)
        await store.queue.append([event])
        assert ids(await claim(store, 10, {})) == [event.id]
        store = await stores.crash()
        assert ids(await claim(store, 10, {})) == [event.id]
        await store.queue.settle([])
        store = await stores.crash()
        for item in await claim(store, 10, {}):
            await store.queue.settle([done(item)])
        clocks.pass_time(30 * DAY_S)
        await store.prune(keep(0, 0))


async def test_events_from_the_future_keep_nothing_from_being_forgotten(store: SqliteStore, clocks: Clocks) -> None:
    clocks.set_wall_clock(by_s=365 * DAY_S)
    ahead = await settled(store, clocks, 1100)
    clocks.set_wall_clock(by_s=-365 * DAY_S)
    after = await settled(store, clocks, 100)
    clocks.pass_time(8 * DAY_S)
    await settled(store, clocks, 1)
    await store.prune(keep(WEEK_S, WEEK_S))
    assert not any(await known(store, after))
    assert all(await known(store, ahead))


async def test_removals_are_forgotten_after_their_time(store: SqliteStore, clocks: Clocks) -> None:
    await register(store, TOKEN)
    await store.registry.delete(OWNER, "apns", TOKEN)
    await store.prune(keep(WEEK_S, 30 * DAY_S))
    assert len(await store.registry.history(owner=OWNER)) == 1
    clocks.pass_time(31 * DAY_S)
    await store.prune(keep(WEEK_S, 30 * DAY_S))
    assert await store.registry.history(owner=OWNER) == []


async def test_what_is_quarantined_is_not_forgotten_until_it_is_released_or_purged(
    store: SqliteStore, clocks: Clocks
) -> None:
    device = await register(store, "a")
    dead = DeadToken(device, ACCOUNT, "Unregistered", device.registered_us + 1)
    await store.registry.remove_dead([dead], quarantine=True)
    clocks.pass_time(31 * DAY_S)
    await store.prune(keep(WEEK_S, 30 * DAY_S))
    assert len(await store.registry.history(owner=OWNER)) == 1
    await store.registry.purge_quarantine(ACCOUNT)
    await store.prune(keep(WEEK_S, 30 * DAY_S))
    assert await store.registry.history(owner=OWNER) == []


async def test_after_the_clock_jumped_ahead_nothing_is_forgotten_for_an_hour(
    store: SqliteStore, clocks: Clocks
) -> None:
    events = await settled(store, clocks, 10)
    await settled(store, clocks, 1)
    clocks.set_wall_clock(by_s=365 * DAY_S)
    assert not await store.prune(keep(WEEK_S, WEEK_S))
    clocks.pass_time(3590)
    await store.prune(keep(WEEK_S, WEEK_S))
    assert all(await known(store, events))
    clocks.pass_time(20)
    await store.prune(keep(WEEK_S, WEEK_S))
    assert not any(await known(store, events))


async def test_a_clock_that_is_set_right_in_time_has_had_nothing_forgotten(store: SqliteStore, clocks: Clocks) -> None:
    events = await settled(store, clocks, 10)
    clocks.set_wall_clock(by_s=365 * DAY_S)
    await store.prune(keep(WEEK_S, WEEK_S))
    clocks.set_wall_clock(by_s=-365 * DAY_S)
    clocks.pass_time(7200)
    await store.prune(keep(WEEK_S, WEEK_S))
    assert all(await known(store, events))


async def test_many_sessions_are_forgotten_in_steps(store: SqliteStore, clocks: Clocks) -> None:
    for _ in range(1200):
        await store.access.create_session(OWNER, clocks.now_ms + 1000)
    clocks.pass_time(31 * DAY_S)
    assert await store.prune(keep(WEEK_S, 30 * DAY_S), for_s=0)
    assert len(await store.access.sessions()) == 700
    await store.prune(keep(WEEK_S, 30 * DAY_S))
    assert await store.access.sessions() == []


async def test_sessions_are_forgotten_long_after_they_have_expired(store: SqliteStore, clocks: Clocks) -> None:
    await store.access.create_session(OWNER, clocks.now_ms + 1000)
    _, endless = await store.access.create_session(OWNER, None)
    clocks.pass_time(31 * DAY_S)
    await store.prune(keep(WEEK_S, 30 * DAY_S))
    assert await store.access.sessions() == [endless]


async def test_a_call_keeps_to_its_time_and_says_that_there_is_more(store: SqliteStore, clocks: Clocks) -> None:
    old = await settled(store, clocks, 3000)
    clocks.pass_time(8 * DAY_S)
    assert await store.prune(keep(WEEK_S, WEEK_S), for_s=0)
    assert any(await known(store, old))


async def test_the_file_does_not_grow_without_bound(store: SqliteStore, clocks: Clocks) -> None:
    """Forty days of the same traffic: after the first weeks the file stays as large as it is."""
    sizes = []
    for _ in range(40):
        await settled(store, clocks, 400, padding=1500)
        clocks.pass_time(DAY_S)
        while await store.prune(keep(WEEK_S, WEEK_S)):
            pass
        sizes.append(await pages(store))
    assert max(sizes[15:]) <= 1.2 * max(sizes[:15])


async def burst(store: SqliteStore, clocks: Clocks) -> None:
    """Many pages are used, then free: their events are delivered, and the contents forgotten."""
    await store.queue.append([make_event(clocks, padding=9000) for _ in range(1500)])
    while items := await claim(store, 4000, {}):
        await store.queue.settle([done(item) for item in items])


async def free_pages(store: SqliteStore) -> int:
    count: int = await store.database.read(lambda driver: driver.execute("PRAGMA freelist_count").fetchone()[0])
    return count


async def test_one_step_gives_hundreds_of_pages_back(store: SqliteStore, clocks: Clocks) -> None:
    """Python before 3.12 steps a PRAGMA once: one page was freed in a step, and 10 GB would have taken hours."""
    await burst(store, clocks)
    before = await free_pages(store)
    assert before > 2000
    assert await store.prune(keep(WEEK_S, WEEK_S), for_s=0)
    # A hundred at least, of which what else is noted in this step may take some.
    assert 90 <= before - await free_pages(store) <= 1000
    while await store.prune(keep(WEEK_S, WEEK_S)):
        pass
    assert await free_pages(store) <= 1000
    assert await store.database.read(lambda driver: driver.execute("PRAGMA integrity_check").fetchone()) == ("ok",)


async def test_a_step_that_took_long_is_followed_by_shorter_ones(store: SqliteStore, clocks: Clocks) -> None:
    """On a slow disk a step of many pages would keep producers waiting."""
    await burst(store, clocks)
    took = []

    def slow(driver: sqlite3.Connection, most: int) -> int:
        clocks.monotonic_s += most / 1000
        took.append(most)
        return 1_000_000

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(housekeeping, "_give_back", slow)
        for _ in range(8):
            await store.prune(keep(WEEK_S, WEEK_S), for_s=0)
    assert max(took[-4:]) <= 100


async def test_what_had_nothing_to_give_back_says_nothing_about_how_long_it_takes(
    store: SqliteStore, clocks: Clocks
) -> None:
    for _ in range(20):
        await store.prune(keep(WEEK_S, WEEK_S), for_s=0)
    await burst(store, clocks)
    before = await free_pages(store)
    await store.prune(keep(WEEK_S, WEEK_S), for_s=0)
    assert before - await free_pages(store) <= 200


async def test_giving_pages_back_is_no_part_of_anybody_elses_transaction(store: SqliteStore, clocks: Clocks) -> None:
    """What a script commits by itself would be on record whatever becomes of the transaction around it."""
    await burst(store, clocks)
    events = [make_event(clocks) for _ in range(50)]
    *_, more = await asyncio.gather(
        *(store.queue.append([event]) for event in events), store.prune(keep(WEEK_S, WEEK_S), for_s=0)
    )
    assert more
    assert all(await known(store, events))


@pytest.mark.slow
async def test_after_a_burst_the_room_is_given_back(store: SqliteStore, clocks: Clocks) -> None:
    events = [make_event(clocks, padding=3000) for _ in range(20_000)]
    for start in range(0, len(events), 2000):
        await store.queue.append(events[start : start + 2000])
    largest = await pages(store)
    while items := await claim(store, 4000, {}):
        await store.queue.settle([done(item) for item in items])
    clocks.pass_time(8 * DAY_S)
    await settled(store, clocks, 1)
    while await store.prune(keep(WEEK_S, WEEK_S)):
        await asyncio.sleep(0)
    assert await pages(store) < largest / 5
