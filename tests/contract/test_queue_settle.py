"""What is on record after an attempt, and what is left to do."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.factories import Stores
from tests.contract.support import EVERYTHING, LANE, LEASE_S, OTHER_LANE, attempt, claim, done, make_event, parked
from tests.support.clocks import Clocks

from tocsin.store.ports import Store
from tocsin.store.records import Backlog, EventRecord, Item, Parked, Result, Settlement, State


async def claimed(store: Store, clocks: Clocks, number: int = 1, **how: bool) -> list[Item]:
    await store.queue.append([make_event(clocks, urgent=how.get("urgent", False)) for _ in range(number)])
    return await claim(store, number, {})


async def record_of(store: Store, item: Item) -> EventRecord:
    record = await store.log.record(item.event.id)
    assert record is not None
    return record


async def test_what_every_device_got_is_done_and_its_content_forgotten(store: Store, clocks: Clocks) -> None:
    (item,) = await claimed(store, clocks)
    attempts = [attempt("apns:a"), attempt("fcm:b", lane=OTHER_LANE)]
    assert await store.queue.settle([Settlement(item, attempts, [])]) == [True]
    record = await record_of(store, item)
    assert (record.state, record.attempts, record.waiting) == (State.DONE, attempts, [])
    assert record.event.body == b""
    assert await store.queue.backlog() == Backlog(0, 0)


@pytest.mark.parametrize("wait_s", [0, 2, 900])
@pytest.mark.parametrize("noticed", [True, False])
async def test_a_due_time_from_before_a_clock_was_set_back_is_moved_with_it(
    store: Store, clocks: Clocks, noticed: bool, wait_s: int
) -> None:
    """It was worked out before the step, and reaches the store after it."""
    (item,) = await claimed(store, clocks)
    clocks.pass_time(1)
    due_ms = clocks.now_ms + wait_s * 1000
    clocks.pass_time(1)
    clocks.set_wall_clock(by_s=-3600)
    if noticed:
        assert await claim(store, 10, EVERYTHING) == []
    await store.queue.settle([parked(item, due_ms)])
    if wait_s > 2:
        clocks.pass_time(wait_s - 3)
        assert await claim(store, 10, EVERYTHING) == []
    clocks.pass_time(3)
    assert [one.event.id for one in await claim(store, 10, EVERYTHING)] == [item.event.id]


async def test_a_due_time_is_moved_with_a_clock_that_is_set_back_though_nothing_is_due_and_nothing_claimed(
    store: Store, clocks: Clocks
) -> None:
    """Whoever asks what is due when must not wait for that hour to come again."""
    (item,) = await claimed(store, clocks)
    await store.queue.settle([parked(item, clocks.now_ms + 60_000)])
    clocks.set_wall_clock(by_s=-3600)
    assert await store.queue.claim(10) == []
    assert [due_ms for due_ms in (await store.schedule.due()).values() if due_ms > clocks.now_ms + 60_000] == []


async def test_a_due_time_is_moved_with_a_clock_that_is_set_back_where_what_has_expired_is_looked_for(
    store: Store, clocks: Clocks
) -> None:
    (item,) = await claimed(store, clocks)
    await store.queue.settle([parked(item, clocks.now_ms + 60_000)])
    clocks.set_wall_clock(by_s=-3600)
    assert await store.schedule.expire(10) == []
    record = await store.log.record(item.event.id)
    assert record is not None
    assert [one.due_ms for one in record.waiting] == [clocks.now_ms + 60_000]


async def test_a_due_time_from_after_a_clock_was_set_back_is_left(store: Store, clocks: Clocks) -> None:
    (before,) = await claimed(store, clocks)
    clocks.set_wall_clock(by_s=-3600)
    assert await claim(store, 10, EVERYTHING) == []
    (after,) = await claimed(store, clocks)
    due_ms = clocks.now_ms + 900_000
    await store.queue.settle([parked(before, due_ms), parked(after, due_ms)])
    clocks.pass_time(899)
    assert await claim(store, 10, EVERYTHING) == []
    clocks.pass_time(1)
    assert len(await claim(store, 10, EVERYTHING)) == 2


async def test_an_event_of_a_user_without_devices_is_done(store: Store, clocks: Clocks) -> None:
    (item,) = await claimed(store, clocks)
    await store.queue.settle([Settlement(item, [], [])])
    assert (await record_of(store, item)).state is State.DONE


@pytest.mark.parametrize("result", [Result.TOKEN_DEAD, Result.CANCELLED])
async def test_a_token_that_is_gone_makes_no_dead_letter(store: Store, clocks: Clocks, result: Result) -> None:
    (item,) = await claimed(store, clocks)
    await store.queue.settle([done(item, result)])
    assert (await record_of(store, item)).state is State.DONE


@pytest.mark.parametrize("result", [Result.REFUSED, Result.EXPIRED])
async def test_one_device_refused_or_expired_makes_a_dead_letter(store: Store, clocks: Clocks, result: Result) -> None:
    (item,) = await claimed(store, clocks)
    await store.queue.settle([Settlement(item, [attempt("apns:a"), attempt("apns:b", result)], [])])
    record = await record_of(store, item)
    assert record.state is State.DEAD
    assert record.event == item.event
    assert await store.queue.backlog() == Backlog(0, 0)


async def test_an_event_delivers_until_the_last_of_its_lanes_has_settled(store: Store, clocks: Clocks) -> None:
    (item,) = await claimed(store, clocks)
    waiting = [
        Parked(LANE, clocks.now_ms, 1, ("apns:a", "apns:b")),
        Parked(LANE, clocks.now_ms + 60_000, 1, ("apns:c",)),
        Parked(OTHER_LANE, clocks.now_ms, 1, ("fcm:d",)),
    ]
    await store.queue.settle([Settlement(item, [attempt("apns:e")], waiting)])
    record = await record_of(store, item)
    assert record.state is State.DELIVERING
    assert sorted(record.waiting, key=lambda one: one.targets) == waiting
    for settled, expected in enumerate([2, 1], start=1):
        ready = {part.lane: part for part in await claim(store, 10, EVERYTHING)}
        lane = LANE if settled == 1 else OTHER_LANE
        await store.queue.settle([done(ready.pop(lane))])
        await store.queue.release(list(ready.values()))
        record = await record_of(store, item)
        assert (record.state, len(record.waiting)) == (State.DELIVERING, expected)
        assert (await store.queue.backlog()).events == 1
    clocks.pass_time(60)
    (last,) = await claim(store, 10, EVERYTHING)
    assert last.targets == ("apns:c",)
    await store.queue.settle([done(last)])
    record = await record_of(store, item)
    assert (record.state, record.waiting, len(record.attempts)) == (State.DONE, [], 4)
    assert await store.queue.backlog() == Backlog(0, 0)


async def test_two_lanes_of_one_event_settled_together_count_once(store: Store, clocks: Clocks) -> None:
    first, _ = await claimed(store, clocks, 2)
    waiting = [Parked(lane, clocks.now_ms, 1, ("apns:a",)) for lane in (LANE, OTHER_LANE)]
    await store.queue.settle([Settlement(first, [], waiting)])
    both = await claim(store, 10, EVERYTHING)
    assert await store.queue.settle([done(part) for part in both]) == [True, True]
    assert (await record_of(store, first)).state is State.DONE
    assert len((await record_of(store, first)).attempts) == 2
    assert (await store.queue.backlog()).events == 1


async def test_one_lane_finished_and_another_retried_together_leaves_what_waits(store: Store, clocks: Clocks) -> None:
    (item,) = await claimed(store, clocks)
    waiting = [Parked(lane, clocks.now_ms, 1, ("apns:a",)) for lane in (LANE, OTHER_LANE)]
    await store.queue.settle([Settlement(item, [], waiting)])
    one, other = await claim(store, 10, EVERYTHING)
    await store.queue.settle([done(one, Result.REFUSED), parked(other, clocks.now_ms + 5, lane=other.lane or "")])
    record = await record_of(store, item)
    assert (record.state, len(record.waiting)) == (State.DELIVERING, 1)
    clocks.pass_time(1)
    (last,) = await claim(store, 10, EVERYTHING)
    await store.queue.settle([done(last)])
    assert (await record_of(store, item)).state is State.DEAD


async def test_a_device_refused_early_makes_a_dead_letter_however_the_others_end(store: Store, clocks: Clocks) -> None:
    (item,) = await claimed(store, clocks)
    waiting = [Parked(LANE, clocks.now_ms, 1, (target,)) for target in ("apns:a", "apns:b", "apns:c")]
    await store.queue.settle([Settlement(item, [], waiting)])
    for part, result in zip(
        await claim(store, 10, EVERYTHING), (Result.REFUSED, Result.DELIVERED, Result.DELIVERED), strict=True
    ):
        await store.queue.settle([done(part, result)])
    assert (await record_of(store, item)).state is State.DEAD


async def test_receipts_are_kept_in_the_order_of_the_attempts(store: Store, clocks: Clocks) -> None:
    (item,) = await claimed(store, clocks)
    first = item
    for tries in range(4):
        at_ms = clocks.now_ms + tries
        receipt = attempt("apns:a", Result.RETRY, at_ms=at_ms)
        await store.queue.settle([Settlement(item, [receipt], [Parked(LANE, at_ms, tries + 1, ("apns:a",))])])
        clocks.pass_time(1)
        (item,) = await claim(store, 10, EVERYTHING)
        assert item.tries == tries + 1
    await store.queue.settle([done(item)])
    times = [one.at_ms for one in (await record_of(store, first)).attempts]
    assert times[:-1] == sorted(times[:-1])
    assert len(times) == 5


async def test_receipts_survive_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    (item,) = await claimed(store, clocks)
    await store.queue.settle([parked(item, clocks.now_ms)])
    before = await record_of(store, item)
    store = await stores.crash()
    assert await record_of(store, item) == before


async def test_text_with_quotes_and_commas_stays_as_it_is(store: Store, clocks: Clocks) -> None:
    (item,) = await claimed(store, clocks)
    strange = attempt("fcm:\"],[\\'% ")
    await store.queue.settle([Settlement(item, [strange], [Parked('a"b', clocks.now_ms, 1, ('fcm:"],[',))])])
    (again,) = await claim(store, 10, {'a"b': 1})
    assert again.targets == ('fcm:"],[',)
    assert (await record_of(store, item)).attempts == [strange]


async def test_a_large_settlement_is_settled_whole(store: Store, clocks: Clocks) -> None:
    items = await claimed(store, clocks, 1000)
    settlements = [done(item) if n % 3 else parked(item, clocks.now_ms) for n, item in enumerate(items)]
    assert all(await store.queue.settle(settlements))
    assert (await store.queue.backlog()).events == 334
    assert len(await claim(store, 0, EVERYTHING)) == 334


async def test_nothing_to_settle_is_settled(store: Store) -> None:
    assert await store.queue.settle([]) == []


async def test_the_backlog_is_right_after_crashes_and_ended_leases(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    items = await claimed(store, clocks, 30) + await claimed(store, clocks, 10, urgent=True)
    size = len(items[0].event.body)
    await store.queue.settle([parked(item, clocks.now_ms) for item in items[:10]])
    await store.queue.settle([done(item) for item in items[10:15]])
    expected = await store.queue.backlog()
    assert expected.events == 35
    clocks.pass_time(LEASE_S + 1)
    again = await claim(store, 100, EVERYTHING)
    assert len(again) == 35
    assert await store.queue.settle([done(item) for item in items]) == [n < 15 for n in range(40)]
    assert await store.queue.backlog() == expected
    store = await stores.crash()
    assert await store.queue.backlog() == expected
    for item in await claim(store, 100, EVERYTHING):
        await store.queue.settle([done(item)])
    assert await store.queue.backlog() == Backlog(0, 0)
    assert expected.size_bytes > 34 * size


async def test_what_is_parked_just_when_its_lane_is_woken_is_woken_too(store: Store, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks)])
    (item,) = await store.queue.claim(1)
    settling = asyncio.ensure_future(store.queue.settle([parked(item, clocks.now_ms + 60_000)]))
    for _ in range(5):
        await asyncio.sleep(0)  # it is on its way to the store
    await store.schedule.wake([LANE])
    assert await settling == [True]
    assert len(await claim(store, 0, {LANE: 1})) == 1
