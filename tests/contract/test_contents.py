"""Contents while the keys change by which they are encrypted: an hour's, and the master key."""

from __future__ import annotations

import pytest
from tests.contract.factories import Stores
from tests.contract.support import EVERYTHING, LANE, done, ids, keep, make_event, parked
from tests.support.clocks import Clocks

from tocsin.domain.events import Event
from tocsin.store.content_keys import FORGOTTEN_WITHIN_MS
from tocsin.store.ports import EventIdConflict, Store
from tocsin.store.records import Result

FOR_LONG = keep(30 * 24 * 3600.0, 30 * 24 * 3600.0)
LARGE = 300_000


async def pass_hours(store: Store, clocks: Clocks) -> None:
    """So long that the keys of what was encrypted before are dropped."""
    clocks.pass_time(FORGOTTEN_WITHIN_MS / 1000)
    while await store.prune(FOR_LONG):
        clocks.pass_time(0)


async def in_every_state(store: Store, clocks: Clocks) -> dict[str, Event]:
    """One event in each state in which its content is needed, and one more that is large."""
    events = {
        name: make_event(clocks, padding=LARGE if name == "large" else 20, urgent=name == "urgent")
        for name in ("parked", "parked again", "dead", "claimed", "fresh", "urgent", "large")
    }
    for name in ("parked", "parked again", "dead", "claimed"):
        await store.queue.append([events[name]])
    first, second, third, _ = await store.queue.claim(4)
    await store.queue.settle([parked(first, clocks.now_ms), parked(second, clocks.now_ms)])
    await store.queue.settle([done(third, Result.REFUSED)])
    for item in await store.schedule.claim_due({LANE: 1}):
        await store.queue.settle([parked(item, clocks.now_ms)])
    for name in ("fresh", "urgent", "large"):
        await store.queue.append([events[name]])
    return events


async def test_what_is_not_settled_is_readable_after_its_hours_key_was_dropped(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open(lease_s=1e9)
    events = await in_every_state(store, clocks)
    for _ in range(3):
        await pass_hours(store, clocks)
    for event in events.values():
        record = await store.log.record(event.id)
        assert record is not None
        assert record.event.body == event.body
    store = await stores.crash()
    items = [*await store.queue.claim(100), *await store.schedule.claim_due(EVERYTHING)]
    letters = await store.log.dead_letters(10)
    found = {item.event.id: item.event.body for item in items} | {
        letter.event.id: letter.event.body for letter in letters.letters
    }
    assert found == {event.id: event.body for event in events.values()}


async def test_a_dead_letter_is_replayed_with_its_content_while_keys_are_dropped(store: Store, clocks: Clocks) -> None:
    events = await in_every_state(store, clocks)
    await pass_hours(store, clocks)
    assert await store.log.replay([events["dead"].id], 10**9) == 1
    await pass_hours(store, clocks)
    items = await store.schedule.claim_due(EVERYTHING)
    assert {item.event.id: item.event.body for item in items}[events["dead"].id] == events["dead"].body


async def test_what_waits_is_readable_after_the_clock_was_set_back(store: Store, clocks: Clocks) -> None:
    clocks.set_wall_clock(by_s=48 * 3600)
    events = [make_event(clocks)]
    await store.queue.append(events)
    clocks.set_wall_clock(by_s=-48 * 3600)
    while await store.prune(FOR_LONG):
        pass
    await store.queue.append([make_event(clocks)])
    record = await store.log.record(events[0].id)
    assert record is not None
    assert record.event.body == events[0].body


async def test_a_repeat_is_recognised_after_the_master_key_and_the_hours_have_changed(
    stores: Stores, clocks: Clocks
) -> None:
    store = await stores.open()
    known = make_event(clocks)
    await store.queue.append([known])
    [item] = await store.queue.claim(10)
    await store.queue.settle([done(item)])
    await store.credentials.rewrap()
    await pass_hours(store, clocks)
    store = await stores.reopen()
    await store.queue.append([known])
    assert ids(await store.queue.claim(10)) == []
    with pytest.raises(EventIdConflict):
        await store.queue.append([make_event(clocks, id=known.id, padding=7)])


async def test_nothing_is_left_of_a_content_but_its_length_when_it_is_settled(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    await store.queue.settle([done(item) for item in await store.queue.claim(1)])
    record = await store.log.record(event.id)
    assert record is not None
    assert record.event.body == b""
