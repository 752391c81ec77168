"""Accepted means durable, once, and all of it."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from tests.contract.factories import Stores
from tests.contract.support import EVERYTHING, OWNER, claim, done, ids, make_event, parked
from tests.support.clocks import Clocks

from tocsin.domain.events import Event, EventId
from tocsin.store.ports import BacklogFull, BatchTooLarge, EventIdConflict, Store
from tocsin.store.records import Backlog, Bound, State, WholeBacklog


async def test_an_appended_event_survives_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    event = make_event(clocks)
    await store.queue.append([event])
    store = await stores.crash()
    (item,) = await claim(store, 10, {})
    assert item.event == event
    assert item.targets is None


async def test_a_batch_survives_a_crash_whole_and_in_order(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    events = [make_event(clocks) for _ in range(700)]
    await store.queue.append(events)
    store = await stores.crash()
    assert ids(await claim(store, 1000, {})) == [event.id for event in events]


async def test_an_event_is_on_record_as_soon_as_it_is_accepted(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    record = await store.log.record(event.id)
    assert record is not None
    assert (record.event, record.state, record.attempts, record.waiting) == (event, State.ACCEPTED, [], [])


async def test_an_id_that_nobody_used_is_not_on_record(store: Store) -> None:
    assert await store.log.record(make_event(Clocks()).id) is None


async def test_an_empty_batch_is_accepted(store: Store) -> None:
    await store.queue.append([])
    assert await store.queue.backlog() == Backlog(0, 0)


async def test_a_repeat_is_accepted_again_and_delivered_once(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    await store.queue.append([event])
    assert len(await claim(store, 10, {})) == 1
    assert await store.queue.backlog() == Backlog(1, len(event.body))


async def test_a_repeat_within_one_batch_is_delivered_once(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event, event])
    assert len(await claim(store, 10, {})) == 1
    assert (await store.queue.backlog()).events == 1


async def test_a_repeat_is_known_after_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    event = make_event(clocks)
    await store.queue.append([event])
    store = await stores.crash()
    await store.queue.append([event])
    assert len(await claim(store, 10, {})) == 1


async def test_a_batch_that_is_repeated_whole_after_its_answer_was_lost_is_there_once(
    stores: Stores, clocks: Clocks
) -> None:
    """The ids are tocsin's own: whoever repeats them was told them by a 503."""
    store = await stores.open()
    events = [make_event(clocks, urgent=n % 3 == 0) for n in range(300)]
    await store.queue.append(events)
    await asyncio.gather(store.queue.append(events), store.queue.append([make_event(clocks)]))
    store = await stores.crash()
    await store.queue.append(events[100:])
    assert (await store.queue.backlog()).events == 301
    assert len(await claim(store, 1000, {})) == 301


async def test_bodies_are_any_bytes(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    event = replace(make_event(clocks), body=bytes(range(256)) * 20)
    await store.queue.append([event])
    store = await stores.crash()
    (item,) = await claim(store, 10, {})
    assert item.event == event
    await store.queue.settle([parked(item, clocks.now_ms)])
    (item,) = await claim(store, 10, EVERYTHING)
    assert item.event == event
    record = await store.log.record(event.id)
    assert record is not None
    assert record.event == event


async def test_a_repeat_is_known_after_the_event_was_delivered(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    (item,) = await claim(store, 10, {})
    await store.queue.settle([done(item)])
    await store.queue.append([event])
    assert await claim(store, 10, EVERYTHING) == []
    assert await store.queue.backlog() == Backlog(0, 0)


async def test_repeats_at_the_same_time_are_delivered_once(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await asyncio.gather(*(store.queue.append([event]) for _ in range(50)))
    assert len(await claim(store, 100, {})) == 1
    assert (await store.queue.backlog()).events == 1


async def test_an_id_used_for_another_event_is_a_conflict_that_names_its_place(store: Store, clocks: Clocks) -> None:
    first = make_event(clocks)
    await store.queue.append([first])
    other = make_event(clocks, id=first.id, padding=3)
    with pytest.raises(EventIdConflict) as conflict:
        await store.queue.append([make_event(clocks), make_event(clocks), other])
    assert conflict.value.index == 2
    assert ids(await claim(store, 10, {})) == [first.id]
    assert (await store.queue.backlog()).events == 1


async def test_a_conflict_within_one_batch_refuses_the_batch(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    other = make_event(clocks, id=event.id, padding=3)
    with pytest.raises(EventIdConflict) as conflict:
        await store.queue.append([event, other])
    assert conflict.value.index == 1
    assert await store.log.record(event.id) is None
    assert await store.queue.backlog() == Backlog(0, 0)


async def test_a_conflict_is_known_after_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    event = make_event(clocks)
    await store.queue.append([event])
    store = await stores.crash()
    with pytest.raises(EventIdConflict):
        await store.queue.append([make_event(clocks, id=event.id, padding=3)])


async def test_one_producers_conflict_does_not_fail_those_in_the_same_commit(store: Store, clocks: Clocks) -> None:
    taken = make_event(clocks)
    await store.queue.append([taken])
    batches = [[make_event(clocks) for _ in range(3)] for _ in range(20)]
    batches[7][1] = make_event(clocks, id=taken.id, padding=3)
    answers = await asyncio.gather(*(store.queue.append(batch) for batch in batches), return_exceptions=True)
    assert [index for index, answer in enumerate(answers) if answer is not None] == [7]
    assert isinstance(answers[7], EventIdConflict)
    claimed = ids(await claim(store, 1000, {}))
    expected = [taken.id, *(event.id for n, batch in enumerate(batches) if n != 7 for event in batch)]
    assert claimed == expected
    assert (await store.queue.backlog()).events == len(expected)


async def test_of_two_producers_with_one_id_in_one_commit_the_second_conflicts(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    answers = await asyncio.gather(
        store.queue.append([make_event(clocks)]),
        store.queue.append([event]),
        store.queue.append([make_event(clocks, id=event.id, padding=3)]),
        return_exceptions=True,
    )
    assert answers[:2] == [None, None]
    assert isinstance(answers[2], EventIdConflict)


async def test_an_id_that_is_taken_fails_its_batch_alone(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    answers = await asyncio.gather(
        store.queue.append([make_event(clocks)]),
        store.queue.append([make_event(clocks), make_event(clocks, id=event.id, padding=3)]),
        store.queue.append([make_event(clocks)]),
        return_exceptions=True,
    )
    assert (answers[0], answers[2]) == (None, None)
    assert isinstance(answers[1], EventIdConflict)
    assert answers[1].index == 1
    assert (await store.queue.backlog()).events == 3
    assert len(await claim(store, 10, {})) == 3


async def test_a_caller_that_gives_up_does_not_take_back_what_is_being_written(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    appending = asyncio.ensure_future(store.queue.append([event]))
    await asyncio.sleep(0)
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    await store.queue.append([make_event(clocks)])
    assert len(await claim(store, 10, {})) == 2


async def test_a_repeat_with_other_content_is_a_conflict_for_every_id(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    await store.queue.append([event])
    with pytest.raises(EventIdConflict):
        await store.queue.append([make_event(clocks, id=event.id, padding=3)])
    assert ids(await claim(store, 10, {})) == [event.id]
    assert await store.queue.backlog() == Backlog(1, len(event.body))


async def test_a_value_that_cannot_be_stored_fails_its_batch_alone(store: Store, clocks: Clocks) -> None:
    beyond = Event(EventId("beyond"), OWNER, "fax_new", 2**63, 2**63, b"{}")
    answers = await asyncio.gather(
        store.queue.append([make_event(clocks)]),
        store.queue.append([make_event(clocks), beyond]),
        store.queue.append([make_event(clocks)]),
        return_exceptions=True,
    )
    assert (answers[0], answers[2]) == (None, None)
    assert isinstance(answers[1], OverflowError)
    assert (await store.queue.backlog()).events == 2
    assert len(await claim(store, 10, {})) == 2


# -- the bounds of the backlog -----------------------------------------------------------------------------------------


async def test_a_backlog_is_full_by_number(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open(max_events=3)
    await store.queue.append([make_event(clocks) for _ in range(3)])
    with pytest.raises(BacklogFull) as full:
        await store.queue.append([make_event(clocks)])
    assert 1 <= full.value.retry_after_s <= 300
    assert (await store.queue.backlog()).events == 3


async def test_a_backlog_is_full_by_size(stores: Stores, clocks: Clocks) -> None:
    event = make_event(clocks)
    store = await stores.open(max_bytes=len(event.body) + 10)
    await store.queue.append([event])
    with pytest.raises(BacklogFull):
        await store.queue.append([make_event(clocks)])
    assert await store.queue.backlog() == Backlog(1, len(event.body))


async def test_a_batch_that_does_not_fit_is_refused_whole(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open(max_events=3)
    first = make_event(clocks)
    await store.queue.append([first])
    with pytest.raises(BacklogFull):
        await store.queue.append([make_event(clocks) for _ in range(3)])
    assert ids(await claim(store, 10, {})) == [first.id]


async def test_a_batch_that_would_never_fit_is_refused_for_ever_with_the_bound(stores: Stores, clocks: Clocks) -> None:
    size = len(make_event(clocks).body)
    store = await stores.open(max_events=3, max_bytes=2 * size)
    with pytest.raises(BatchTooLarge) as too_many:
        await store.queue.append([make_event(clocks) for _ in range(4)])
    assert (too_many.value.bound, too_many.value.most) == (Bound.EVENTS, 3)
    with pytest.raises(BatchTooLarge) as too_large:
        await store.queue.append([make_event(clocks) for _ in range(3)])
    assert (too_large.value.bound, too_large.value.most) == (Bound.BYTES, 2 * size)
    assert await store.queue.backlog() == Backlog(0, 0)
    assert await claim(store, 10, {}) == []


async def test_what_was_accepted_before_does_not_make_a_batch_too_large(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open(max_events=3)
    events = [make_event(clocks) for _ in range(4)]
    await store.queue.append(events[:2])
    await store.queue.settle([done(item) for item in await claim(store, 10, {})])
    await store.queue.append(events)
    assert len(await claim(store, 10, {})) == 2


@pytest.mark.parametrize("bound", ["max_events", "max_bytes"])
async def test_a_process_beside_the_server_keeps_to_the_bound(stores: Stores, clocks: Clocks, bound: str) -> None:
    bounds = {bound: 3 if bound == "max_events" else 3 * len(make_event(clocks).body)}
    server = await stores.open(**bounds)
    await server.queue.append([make_event(clocks), make_event(clocks)])
    one, other = await claim(server, 10, {})
    await server.queue.settle([parked(one, clocks.now_ms)])
    command = await stores.open(server=False, **bounds)
    accepted = make_event(clocks)
    await command.queue.append([accepted])
    with pytest.raises(BacklogFull):
        await command.queue.append([make_event(clocks)])
    await command.queue.append([accepted])
    await server.queue.settle([done(other)])
    await command.queue.append([make_event(clocks)])
    with pytest.raises(BacklogFull):
        await command.queue.append([make_event(clocks)])
    await stores.noticed(server)
    assert (await server.queue.backlog()).events == 3


async def test_a_repeat_is_answered_as_the_first_time_though_the_backlog_is_full(
    stores: Stores, clocks: Clocks
) -> None:
    store = await stores.open(max_events=3)
    events = [make_event(clocks) for _ in range(2)]
    await store.queue.append(events)
    more = make_event(clocks)
    await store.queue.append([*events, more, more])
    assert await store.queue.backlog() == Backlog(3, sum(len(event.body) for event in [*events, more]))
    await store.queue.append([events[1]])
    with pytest.raises(EventIdConflict):
        await store.queue.append([make_event(clocks, id=more.id, padding=3)])
    with pytest.raises(BacklogFull):
        await store.queue.append([events[0], make_event(clocks)])
    assert (await store.queue.backlog()).events == 3
    assert len(await claim(store, 10, {})) == 3


async def test_the_bound_holds_for_producers_in_one_commit(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open(max_events=5)
    appends = (store.queue.append([make_event(clocks)]) for _ in range(9))
    answers = await asyncio.gather(*appends, return_exceptions=True)
    assert sum(isinstance(answer, BacklogFull) for answer in answers) == 4
    assert len(await claim(store, 10, {})) == 5


async def test_what_is_settled_makes_room_and_what_waits_does_not(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open(max_events=2)
    await store.queue.append([make_event(clocks), make_event(clocks)])
    one, other = await claim(store, 10, {})
    await store.queue.settle([parked(one, clocks.now_ms)])
    with pytest.raises(BacklogFull):
        await store.queue.append([make_event(clocks)])
    await store.queue.settle([done(other)])
    await store.queue.append([make_event(clocks)])


async def test_a_full_backlog_is_still_full_after_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open(max_events=2)
    await store.queue.append([make_event(clocks), make_event(clocks)])
    (item,) = await claim(store, 1, {})
    await store.queue.settle([parked(item, clocks.now_ms + 1000)])
    store = await stores.crash(max_events=2)
    with pytest.raises(BacklogFull):
        await store.queue.append([make_event(clocks)])


async def test_the_faster_it_drains_the_sooner_to_try_again(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open(max_events=1000)

    async def wait_after_settling(number: int) -> int:
        for item in await claim(store, number, {}):
            await store.queue.settle([done(item)])
        await store.queue.append([make_event(clocks) for _ in range(1000 - (await store.queue.backlog()).events)])
        with pytest.raises(BacklogFull) as full:
            await store.queue.append([make_event(clocks)])
        return full.value.retry_after_s

    never = await wait_after_settling(0)
    slow = await wait_after_settling(10)
    fast = await wait_after_settling(200)
    assert never > slow > fast >= 1


async def test_what_a_process_delivers_from_is_counted_apart_and_all_of_it_can_be_read_from_the_store(
    store: Store, clocks: Clocks
) -> None:
    assert store.queue.held() == Backlog(0, 0)
    assert await store.queue.whole_backlog() == WholeBacklog(0, 0, None)
    first = make_event(clocks)
    clocks.pass_time(10)
    second = make_event(clocks)
    await store.queue.append([first, second])
    items = {item.event.id: item for item in await store.queue.claim(10)}
    both = Backlog(2, len(first.body) + len(second.body))
    assert (await store.queue.backlog(), store.queue.held()) == (both, both)
    assert await store.queue.whole_backlog() == WholeBacklog(2, both.size_bytes, first.accepted_ms)
    await store.queue.settle([parked(items[first.id], clocks.now_ms), done(items[second.id])])
    assert store.queue.held() == Backlog(1, len(first.body))
    assert await store.queue.whole_backlog() == WholeBacklog(1, len(first.body), first.accepted_ms)


async def test_the_backlog_knows_its_oldest_event(store: Store, clocks: Clocks) -> None:
    assert await store.queue.oldest_ms() is None
    first = make_event(clocks)
    clocks.pass_time(10)
    second = make_event(clocks, urgent=True)
    await store.queue.append([first, second])
    assert await store.queue.oldest_ms() == first.accepted_ms
    items = {item.event.id: item for item in await store.queue.claim(10)}
    await store.queue.settle([done(items[first.id])])
    assert await store.queue.oldest_ms() == second.accepted_ms
    await store.queue.settle([parked(items[second.id], clocks.now_ms)])
    assert await store.queue.oldest_ms() == second.accepted_ms
