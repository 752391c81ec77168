"""Dead letters can be listed, explained, replayed and discarded."""

from __future__ import annotations

import pytest
from tests.contract.factories import Stores
from tests.contract.support import EVERYTHING, LANE, OTHER_LANE, attempt, claim, done, ids, make_event, new_id
from tests.support.clocks import Clocks

from tocsin.domain.events import EventId
from tocsin.store.ports import Store, UnknownCursor
from tocsin.store.records import Attempt, Backlog, Cursor, Result, Settlement, State

HOUR_MS = 3600 * 1000


async def letters(store: Store, clocks: Clocks, number: int, attempts: list[Attempt] | None = None) -> list[EventId]:
    """Events that ended as dead letters."""
    events = [make_event(clocks, lives_s=60) for _ in range(number)]
    await store.queue.append(events)
    given = attempts or [attempt("apns:a", Result.REFUSED)]
    items = await claim(store, number, {})
    await store.queue.settle([Settlement(item, given, []) for item in items])
    return [event.id for event in events]


async def state_of(store: Store, id: EventId) -> State:
    record = await store.log.record(id)
    assert record is not None
    return record.state


async def test_they_are_listed_newest_first_page_by_page(store: Store, clocks: Clocks) -> None:
    expected = (await letters(store, clocks, 7))[::-1]
    found: list[EventId] = []
    start = None
    for _ in range(3):
        page = await store.log.dead_letters(3, start=start)
        found += [letter.event.id for letter in page.letters]
        start = page.next
    assert (found, start) == (expected, None)
    assert await store.log.count_dead_letters() == 7


async def test_a_page_that_ends_with_the_last_one_has_no_next(store: Store, clocks: Clocks) -> None:
    await letters(store, clocks, 3)
    assert (await store.log.dead_letters(3)).next is None


async def test_without_any_the_list_is_empty(store: Store) -> None:
    assert (await store.log.dead_letters(10)).letters == []


async def test_each_names_the_devices_that_it_did_not_reach_and_why(store: Store, clocks: Clocks) -> None:
    attempts = [
        attempt("apns:a", Result.RETRY),
        attempt("apns:b"),
        attempt("apns:a", Result.REFUSED),
        attempt("fcm:c", Result.EXPIRED, lane=OTHER_LANE),
        attempt("fcm:d", Result.TOKEN_DEAD, lane=OTHER_LANE),
    ]
    await letters(store, clocks, 1, attempts)
    (letter,) = (await store.log.dead_letters(10)).letters
    assert letter.devices == [attempts[2], attempts[3]]


async def test_one_is_explained_with_every_attempt(store: Store, clocks: Clocks) -> None:
    (id,) = await letters(store, clocks, 1)
    record = await store.log.record(id)
    assert record is not None
    assert (record.state, len(record.attempts)) == (State.DEAD, 1)


async def test_an_event_that_waits_is_no_dead_letter_and_an_unknown_one_is_none(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    assert await state_of(store, event.id) is State.ACCEPTED
    assert await store.log.count_dead_letters() == 0
    assert await store.log.record(new_id()) is None


async def test_a_replay_goes_to_exactly_the_devices_that_were_not_reached(store: Store, clocks: Clocks) -> None:
    attempts = [
        attempt("apns:a"),
        attempt("apns:b", Result.REFUSED),
        attempt("apns:c", Result.TOKEN_DEAD),
        attempt("apns:d", Result.EXPIRED),
        attempt("fcm:e", Result.EXPIRED, lane=OTHER_LANE),
        attempt("fcm:f", Result.REFUSED, lane=OTHER_LANE),
        attempt("fcm:f", Result.DELIVERED, lane=OTHER_LANE),
    ]
    (id,) = await letters(store, clocks, 1, attempts)
    assert await store.log.replay([id], HOUR_MS) == 1
    items = {item.lane: item for item in await claim(store, 10, EVERYTHING)}
    assert {lane: item.targets for lane, item in items.items()} == {LANE: ("apns:b", "apns:d"), OTHER_LANE: ("fcm:e",)}
    assert all(item.tries == 0 for item in items.values())


async def test_a_replayed_event_lives_anew_and_is_delivering(store: Store, clocks: Clocks) -> None:
    (id,) = await letters(store, clocks, 1)
    clocks.pass_time(600)
    await store.log.replay([id], HOUR_MS)
    assert await state_of(store, id) is State.DELIVERING
    assert (await store.queue.backlog()).events == 1
    assert dict(await store.schedule.due()) == {LANE: clocks.now_ms}
    assert await store.schedule.expire(10) == []
    (item,) = await claim(store, 10, EVERYTHING)
    assert item.event.expires_ms == clocks.now_ms + HOUR_MS
    assert item.event.body
    await store.queue.settle([done(item)])
    assert await state_of(store, id) is State.DONE
    assert await store.queue.backlog() == Backlog(0, 0)
    assert await store.log.count_dead_letters() == 0


async def test_a_replay_that_fails_again_is_a_dead_letter_again(store: Store, clocks: Clocks) -> None:
    (id,) = await letters(store, clocks, 1)
    await store.log.replay([id], HOUR_MS)
    (item,) = await claim(store, 10, EVERYTHING)
    await store.queue.settle([done(item, Result.REFUSED)])
    assert await state_of(store, id) is State.DEAD
    record = await store.log.record(id)
    assert record is not None
    assert len(record.attempts) == 2


async def test_what_expired_before_it_had_a_lane_can_be_replayed(store: Store, clocks: Clocks) -> None:
    (id,) = await letters(store, clocks, 1, [attempt("apns:a", Result.EXPIRED, lane="")])
    await store.log.replay(None, HOUR_MS)
    (item,) = await claim(store, 10, dict.fromkeys(dict(await store.schedule.due()), 10))
    assert (item.event.id, item.targets) == (id, ("apns:a",))


async def test_a_letter_that_everyone_has_got_by_now_is_done_when_it_is_replayed(store: Store, clocks: Clocks) -> None:
    (id,) = await letters(store, clocks, 1, [attempt("apns:a", Result.REFUSED), attempt("apns:a")])
    assert await store.log.replay([id], HOUR_MS) == 1
    assert await state_of(store, id) is State.DONE
    assert await store.queue.backlog() == Backlog(0, 0)


async def test_all_are_replayed_however_many(store: Store, clocks: Clocks) -> None:
    expected = await letters(store, clocks, 450)
    assert await store.log.replay(None, HOUR_MS) == 450
    assert (await store.queue.backlog()).events == 450
    assert sorted(ids(await claim(store, 0, EVERYTHING))) == sorted(expected)


async def test_ids_that_are_no_dead_letters_are_passed_over(store: Store, clocks: Clocks) -> None:
    (id,) = await letters(store, clocks, 1)
    event = make_event(clocks)
    await store.queue.append([event])
    assert await store.log.replay([new_id(), event.id, id, id], HOUR_MS) == 1
    assert await store.log.replay([id], HOUR_MS) == 0
    assert await store.log.discard([id, event.id]) == 0


async def test_a_replay_survives_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    (id,) = await letters(store, clocks, 1)
    await store.log.replay([id], HOUR_MS)
    store = await stores.crash()
    assert (await store.queue.backlog()).events == 1
    assert ids(await claim(store, 10, EVERYTHING)) == [id]


async def test_a_replay_by_another_process_is_noticed(stores: Stores, clocks: Clocks) -> None:
    server = await stores.open()
    expected = await letters(server, clocks, 5)
    other = await stores.open(server=False)
    assert await other.log.replay(None, HOUR_MS) == 5
    await stores.noticed(server)
    assert (await server.queue.backlog()).events == 5
    assert dict(await server.schedule.due()) == {LANE: clocks.now_ms}
    items = await claim(server, 10, EVERYTHING)
    assert sorted(ids(items)) == sorted(expected)
    await server.queue.settle([done(item) for item in items])
    assert await server.queue.backlog() == Backlog(0, 0)


async def test_discarded_ones_are_done_without_content_and_keep_their_receipts(store: Store, clocks: Clocks) -> None:
    one, other = await letters(store, clocks, 2)
    assert await store.log.discard([one]) == 1
    record = await store.log.record(one)
    assert record is not None
    assert (record.state, record.event.body, len(record.attempts)) == (State.DONE, b"", 1)
    assert [letter.event.id for letter in (await store.log.dead_letters(10)).letters] == [other]
    assert await store.log.replay([one], HOUR_MS) == 0


@pytest.mark.parametrize("number", [1, 450])
async def test_all_are_discarded_however_many(store: Store, clocks: Clocks, number: int) -> None:
    await letters(store, clocks, number)
    assert await store.log.discard(None) == number
    assert await store.log.count_dead_letters() == 0
    assert await store.queue.backlog() == Backlog(0, 0)


async def test_a_page_begins_only_where_this_store_has_said_so(store: Store) -> None:
    for cursor in ("", "x", "-1", "1" * 40, "1.5", "\u0661"):
        with pytest.raises(UnknownCursor):
            await store.log.dead_letters(10, start=Cursor(cursor))


async def test_every_replay_is_a_new_round(store: Store, clocks: Clocks) -> None:
    (id,) = await letters(store, clocks, 1)
    for round in (1, 2):
        await store.log.replay([id], HOUR_MS)
        (item,) = await claim(store, 10, EVERYTHING)
        assert (item.round, item.tries) == (round, 0)
        await store.queue.settle([Settlement(item, [Attempt(0, "apns:a", LANE, "refused", round=round)], [])])
    record = await store.log.record(id)
    assert record is not None
    assert record.round == 2
    assert [(one.round, one.number) for one in record.attempts] == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("named", [False, True], ids=["all", "by id"])
@pytest.mark.parametrize("action", ["replay", "discard"])
async def test_of_many_each_step_is_told_and_no_more_are_taken_when_it_is_to_end(
    store: Store, clocks: Clocks, action: str, named: bool
) -> None:
    known = await letters(store, clocks, 450)
    chosen = known if named else None
    steps: list[int] = []

    async def act(goes_on: int) -> int:
        async def each(done: int) -> bool:
            steps.append(done)
            return len(steps) < goes_on

        if action == "replay":
            return await store.log.replay(chosen, HOUR_MS, each)
        return await store.log.discard(chosen, each)

    acted = await act(goes_on=1)
    assert (steps, 0 < acted < 450) == ([acted], True)
    assert await store.log.count_dead_letters() == 450 - acted
    steps.clear()
    assert await act(goes_on=100) == sum(steps) == 450 - acted
    assert await store.log.count_dead_letters() == 0
