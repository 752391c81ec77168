"""Who owns an item, until when, and how an owner learns that it does not any more."""

from __future__ import annotations

from collections.abc import Sequence

from tests.contract.factories import Stores
from tests.contract.support import EVERYTHING, LEASE_S, attempt, claim, done, ids, make_event, parked
from tests.support.clocks import Clocks

from tocsin.store.ports import Store
from tocsin.store.records import Item, Parked, Result, Settlement, State


async def claimed(store: Store, clocks: Clocks, number: int = 1) -> list[Item]:
    await store.queue.append([make_event(clocks) for _ in range(number)])
    return await store.queue.claim(number)


async def test_what_is_claimed_may_be_sent(store: Store, clocks: Clocks) -> None:
    await claimed(store, clocks)
    assert store.queue.may_send()


async def test_an_owner_is_told_of_items_whose_time_is_over(store: Store, clocks: Clocks) -> None:
    lost: list[Item] = []
    store.queue.when_lost(lambda items: lost.extend(items))
    items = await claimed(store, clocks, 3)
    if any(item.deadline is None for item in items):
        return  # ownership in this store does not end by time
    await store.queue.settle([done(items[0])])
    clocks.pass_time(LEASE_S + 1)
    again = await store.queue.claim(10)
    assert lost == items[1:]
    assert ids(again) == ids(items[1:])
    assert await store.queue.settle([done(item) for item in items]) == [True, False, False]


async def test_an_owner_is_not_told_of_what_it_has_released_itself(store: Store, clocks: Clocks) -> None:
    lost: list[Sequence[Item]] = []
    store.queue.when_lost(lost.append)
    items = await claimed(store, clocks, 2)
    await store.queue.release(items)
    assert ids(await store.queue.claim(10)) == ids(items)
    assert lost == []


async def test_ownership_that_is_extended_goes_on(store: Store, clocks: Clocks) -> None:
    kept, given_up = await claimed(store, clocks, 2)
    if kept.deadline is None:
        return  # ownership in this store does not end by time
    clocks.pass_time(LEASE_S - 1)
    before = kept.deadline
    await store.queue.extend([kept])
    assert kept.deadline > before
    clocks.pass_time(2)
    assert ids(await store.queue.claim(10)) == [given_up.event.id]
    assert await store.queue.settle([done(kept), done(given_up)]) == [True, False]


async def test_what_is_not_owned_any_more_is_not_extended(store: Store, clocks: Clocks) -> None:
    settled, released = await claimed(store, clocks, 2)
    await store.queue.settle([done(settled)])
    await store.queue.release([released])
    await store.queue.extend([settled, released])
    (again,) = await store.queue.claim(10)
    assert again.event.id == released.event.id
    assert await store.queue.settle([done(released)]) == [False]


# -- repeating what may have been done ---------------------------------------------------------------------------------


async def test_a_settlement_that_is_repeated_records_nothing_twice(store: Store, clocks: Clocks) -> None:
    one, other = await claimed(store, clocks, 2)
    settlements = [parked(one, clocks.now_ms), done(other)]
    for _ in range(3):
        assert await store.queue.settle(settlements) == [True, True]
    record = await store.log.record(one.event.id)
    assert record is not None
    assert (len(record.attempts), len(record.waiting)) == (1, 1)
    assert (await store.queue.backlog()).events == 1
    (again,) = await claim(store, 10, EVERYTHING)
    assert again.tries == 1


async def test_an_event_that_comes_again_leaves_out_devices_whose_outcome_is_final(
    stores: Stores, clocks: Clocks
) -> None:
    """However often it is claimed, and whatever ends the process in between."""
    store = await stores.open()
    (item,) = await claimed(store, clocks)
    left = Parked("apns:production:39JSDKGJ38.de.cospace.app", clocks.now_ms, 1, ("apns:b",))
    attempts = [attempt("apns:a"), attempt("apns:b", Result.RETRY), attempt("apns:c", Result.TOKEN_DEAD)]
    await store.queue.settle([Settlement(item, attempts, [left])])
    for _ in range(3):
        (again,) = await claim(store, 10, EVERYTHING)
        assert (again.event.id, again.targets) == (item.event.id, ("apns:b",))
        store = await stores.crash()
    (again,) = await claim(store, 10, EVERYTHING)
    await store.queue.settle([done(again, device="apns:b")])
    store = await stores.crash()
    assert await claim(store, 10, EVERYTHING) == []


async def test_that_an_event_is_done_is_on_record_whoever_registers_afterwards(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    (item,) = await claimed(store, clocks)
    await store.queue.settle([Settlement(item, [], [])])
    store = await stores.crash()
    record = await store.log.record(item.event.id)
    assert record is not None
    assert record.state is State.DONE
    assert await claim(store, 10, EVERYTHING) == []


async def test_attempts_keep_their_round_and_their_number(store: Store, clocks: Clocks) -> None:
    (item,) = await claimed(store, clocks)
    for number in (1, 2, 3):
        await store.queue.settle([parked(item, clocks.now_ms)])
        (item,) = await claim(store, 10, EVERYTHING)
        assert item.tries == number
    await store.queue.settle([Settlement(item, [attempt("apns:a", number=4)], [])])
    record = await store.log.record(item.event.id)
    assert record is not None
    assert [(one.round, one.number) for one in record.attempts] == [(0, 1), (0, 2), (0, 3), (0, 4)]
