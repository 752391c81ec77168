"""What is settled is kept for its time from then on; what is not settled, and ids, for longer."""

from __future__ import annotations

import pytest
from tests.contract.factories import Stores
from tests.contract.support import (
    EVERYTHING,
    attempt,
    claim,
    done,
    keep,
    make_event,
    parked,
)
from tests.support.clocks import Clocks

from tocsin.domain.events import Event
from tocsin.store.ports import EventIdConflict, Store
from tocsin.store.records import Item, Result, Retention, Settlement, State

DAY_S = 24 * 3600.0
WEEK = keep(7 * DAY_S, 30 * DAY_S, 30 * DAY_S)


@pytest.fixture
async def store(stores: Stores, clocks: Clocks) -> Store:
    return await stores.open()


async def append(store: Store, clocks: Clocks) -> Event:
    """An event that is not the newest: the newest is kept, whatever its age."""
    event = make_event(clocks, lives_s=60 * DAY_S)
    await store.queue.append([event, make_event(clocks)])
    return event


async def claimed(store: Store, event: Event) -> Item:
    items = await claim(store, 100, EVERYTHING)
    await store.queue.release([item for item in items if item.event.id != event.id])
    return next(item for item in items if item.event.id == event.id)


async def after(days: float, store: Store, clocks: Clocks, event: Event, retention: Retention = WEEK) -> State | None:
    """Where the event stands so many days later, when all that is old enough is forgotten."""
    clocks.pass_time(days * DAY_S)
    while await store.prune(retention):
        pass
    record = await store.log.record(event.id)
    return None if record is None else record.state


async def test_what_is_settled_late_is_kept_as_long_as_what_was_settled_at_once(store: Store, clocks: Clocks) -> None:
    """A credential was wrong for eight days: who then asks what became of the event is told."""
    event = await append(store, clocks)
    await store.queue.settle([parked(await claimed(store, event), clocks.now_ms)])
    assert await after(8, store, clocks, event) is State.DELIVERING
    await store.queue.settle([done(await claimed(store, event))])
    assert await after(6.9, store, clocks, event) is State.DONE
    assert await after(0.2, store, clocks, event) is None


async def test_what_is_settled_late_without_a_receipt_is_kept_as_long(store: Store, clocks: Clocks) -> None:
    event = await append(store, clocks)
    clocks.pass_time(8 * DAY_S)
    await store.queue.settle([Settlement(await claimed(store, event), [], [])])
    assert await after(6.9, store, clocks, event) is State.DONE
    assert await after(0.2, store, clocks, event) is None


async def test_an_event_of_several_devices_is_settled_with_the_last_of_them(store: Store, clocks: Clocks) -> None:
    event = await append(store, clocks)
    item = await claimed(store, event)
    late = parked(item, clocks.now_ms + int(5 * DAY_S * 1000), targets=("apns:b",)).parked
    await store.queue.settle([Settlement(item, [attempt("apns:a")], late)])
    clocks.pass_time(5 * DAY_S + 1)
    await store.queue.settle([done(await claimed(store, event), device="apns:b")])
    assert await after(6.9, store, clocks, event) is State.DONE
    assert await after(0.2, store, clocks, event) is None


async def test_a_dead_letter_is_kept_for_its_own_time_from_when_it_became_one(store: Store, clocks: Clocks) -> None:
    event = await append(store, clocks)
    await store.queue.settle([parked(await claimed(store, event), clocks.now_ms)])
    clocks.pass_time(28 * DAY_S)
    await store.queue.settle([done(await claimed(store, event), Result.EXPIRED)])
    assert await after(29.9, store, clocks, event) is State.DEAD
    assert [letter.event for letter in (await store.log.dead_letters(10)).letters] == [event]
    assert await after(0.2, store, clocks, event) is None
    assert await store.log.count_dead_letters() == 0


async def test_a_dead_letter_may_have_a_shorter_time_than_what_was_delivered(store: Store, clocks: Clocks) -> None:
    dead, delivered = await append(store, clocks), await append(store, clocks)
    await store.queue.settle([done(await claimed(store, dead), Result.REFUSED)])
    await store.queue.settle([done(await claimed(store, delivered))])
    shorter = keep(7 * DAY_S, DAY_S, 3 * DAY_S)
    assert await after(3.1, store, clocks, dead, shorter) is None
    assert await after(0, store, clocks, delivered, shorter) is State.DONE


async def test_what_was_replayed_is_kept_from_when_it_was_delivered_after_all(store: Store, clocks: Clocks) -> None:
    event = await append(store, clocks)
    await store.queue.settle([done(await claimed(store, event), Result.REFUSED)])
    assert await after(20, store, clocks, event) is State.DEAD
    assert await store.log.replay([event.id], int(28 * DAY_S * 1000)) == 1
    assert await after(20, store, clocks, event) is State.DELIVERING
    replayed = await store.schedule.claim_due(EVERYTHING)
    await store.queue.settle([done(item) for item in replayed])
    assert await after(6.9, store, clocks, event) is State.DONE
    assert await after(0.2, store, clocks, event) is None


async def test_a_discarded_dead_letter_is_kept_like_what_was_delivered_from_then_on(
    store: Store, clocks: Clocks
) -> None:
    event = await append(store, clocks)
    await store.queue.settle([done(await claimed(store, event), Result.REFUSED)])
    assert await after(20, store, clocks, event) is State.DEAD
    assert await store.log.discard([event.id]) == 1
    assert await after(6.9, store, clocks, event) is State.DONE
    assert await after(0.2, store, clocks, event) is None


@pytest.mark.parametrize("result", [Result.DELIVERED, Result.REFUSED])
async def test_an_id_is_remembered_for_a_day_however_short_the_retention(
    store: Store, clocks: Clocks, result: Result
) -> None:
    event = await append(store, clocks)
    await store.queue.settle([done(await claimed(store, event), result)])
    none = keep(0, 0, 0)
    assert await after(0.99, store, clocks, event, none) is not None
    before = await store.queue.backlog()
    await store.queue.append([event])
    assert await store.queue.backlog() == before
    with pytest.raises(EventIdConflict):
        await store.queue.append([make_event(clocks, id=event.id, padding=1)])
    assert await after(0.1, store, clocks, event, none) is None


async def test_the_age_is_kept_over_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    event = await append(store, clocks)
    clocks.pass_time(8 * DAY_S)
    await store.queue.settle([done(await claimed(store, event))])
    store = await stores.crash()
    assert await after(6.9, store, clocks, event) is State.DONE
    assert await after(0.2, store, clocks, event) is None
