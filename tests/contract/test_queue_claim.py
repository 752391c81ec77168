"""What is given out: in which order, to whom, for how long."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from tests.contract.factories import Stores
from tests.contract.support import EVERYTHING, LANE, LEASE_S, OTHER_LANE, OWNER, claim, done, ids, make_event, parked
from tests.support.clocks import Clocks

from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import Event
from tocsin.store.ports import Store
from tocsin.store.records import Item, Parked, Result, Settlement


async def append(store: Store, clocks: Clocks, number: int, *, urgent: bool = False, **how: float) -> list[Event]:
    events = [make_event(clocks, urgent=urgent, **how) for _ in range(number)]  # type: ignore[arg-type]
    await store.queue.append(events)
    return events


async def park(store: Store, clocks: Clocks, number: int, *, due_in_s: float = 0, **how: object) -> list[str]:
    """Events that wait in a lane."""
    urgent, lane = bool(how.get("urgent")), str(how.get("lane", LANE))
    events = await append(store, clocks, number, urgent=urgent)
    items = await claim(store, number, {})
    assert len(items) == number
    due_ms = clocks.now_ms + int(due_in_s * 1000)
    assert all(await store.queue.settle([parked(item, due_ms, lane=lane) for item in items]))
    return [event.id for event in events]


# -- order -------------------------------------------------------------------------------------------------------------


async def test_events_are_claimed_in_the_order_in_which_they_were_accepted(store: Store, clocks: Clocks) -> None:
    events = await append(store, clocks, 50)
    claimed = [item for _ in range(10) for item in await claim(store, 5, {})]
    assert ids(claimed) == [event.id for event in events]


async def test_a_claim_gives_no_more_than_asked_for(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 10)
    assert len(await claim(store, 4, {})) == 4


async def test_where_every_transaction_has_ended_nothing_is_held_up(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 10)
    assert len(await claim(store, 4, {})) == 4
    assert store.queue.held_up_s() == 0


async def test_what_is_claimed_is_not_offered_again(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 10)
    assert len(await claim(store, 10, {})) == 10
    assert await claim(store, 10, EVERYTHING) == []


async def test_two_claims_at_once_never_give_the_same_event(stores: Stores, clocks: Clocks) -> None:
    await append(await stores.open(), clocks, 200)
    store = await stores.crash()
    claims = await asyncio.gather(*(claim(store, 40, {}) for _ in range(8)))
    claimed = [id for items in claims for id in ids(items)]
    assert len(claimed) == len(set(claimed)) == 200


async def test_urgent_events_overtake_the_others(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 100)
    urgent = await append(store, clocks, 3, urgent=True)
    claimed = await claim(store, 8, {})
    assert ids(claimed)[:3] == [event.id for event in urgent]
    assert len(claimed) == 8


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 1000])
async def test_urgent_events_never_starve_the_others(store: Store, clocks: Clocks, limit: int) -> None:
    await append(store, clocks, 2 * limit)
    bulk = 0
    for _ in range(8):
        await append(store, clocks, 2 * limit, urgent=True)
        items = await claim(store, limit, {})
        bulk += sum(not item.event.urgent for item in items)
    assert bulk >= limit
    assert bulk <= 4 * limit


async def test_after_a_crash_a_backlog_is_claimed_in_order_and_once(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    events = await append(store, clocks, 30) + await append(store, clocks, 5, urgent=True)
    store = await stores.crash()
    events += await append(store, clocks, 10)
    claimed: list[Item] = []
    while items := await claim(store, 7, {}):
        claimed += items
    assert sorted(ids(claimed)) == sorted(event.id for event in events)
    assert ids(item for item in claimed if not item.event.urgent) == [event.id for event in events if not event.urgent]


async def test_when_all_is_claimed_there_is_something_to_wait_for(stores: Stores, clocks: Clocks) -> None:
    """Not a busy loop: an urgent event that is the newest of a backlog once made the others look unread for ever."""
    store = await stores.open()
    await append(store, clocks, 5)
    await append(store, clocks, 1, urgent=True)
    store = await stores.crash()
    while await claim(store, 100, {}):
        pass
    waiting = asyncio.ensure_future(store.queue.wait(30))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await append(store, clocks, 1)
    await asyncio.wait_for(waiting, 10)


async def test_waiting_ends_after_its_time(store: Store) -> None:
    while await claim(store, 1, {}):
        pass
    await asyncio.wait_for(store.queue.wait(0.01), 5)


# -- what is parked ----------------------------------------------------------------------------------------------------


async def test_a_parked_item_is_offered_when_it_is_due_and_not_before(store: Store, clocks: Clocks) -> None:
    (id,) = await park(store, clocks, 1, due_in_s=30)
    assert await claim(store, 10, EVERYTHING) == []
    clocks.pass_time(29)
    assert await claim(store, 10, EVERYTHING) == []
    clocks.pass_time(1)
    (item,) = await claim(store, 10, EVERYTHING)
    assert (item.event.id, item.lane, item.targets, item.tries) == (id, LANE, ("apns:a",), 1)


async def test_waiting_ends_when_something_is_parked_that_is_due_earlier_than_all_before(
    store: Store, clocks: Clocks
) -> None:
    """Who waits has reckoned with what was parked when it began to wait."""
    await append(store, clocks, 2)
    first, second = await claim(store, 2, {})
    await store.queue.settle([parked(first, clocks.now_ms + 60_000)])
    await claim(store, 10, EVERYTHING)  # there is nothing, which is why it waits
    waiting = asyncio.ensure_future(store.queue.wait(600))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await store.queue.settle([parked(second, clocks.now_ms)])
    async with asyncio.timeout(10):
        await waiting
    assert len(await claim(store, 10, EVERYTHING)) == 1


async def test_the_lanes_that_have_something_are_named_with_their_times(store: Store, clocks: Clocks) -> None:
    assert dict(await store.schedule.due()) == {}
    await park(store, clocks, 1, due_in_s=30)
    await park(store, clocks, 1, due_in_s=10)
    await park(store, clocks, 1, due_in_s=20, lane=OTHER_LANE)
    expected = {LANE: clocks.now_ms + 10_000, OTHER_LANE: clocks.now_ms + 20_000}
    assert dict(await store.schedule.due()) == expected
    clocks.pass_time(10)
    (item,) = await claim(store, 10, EVERYTHING)
    assert dict(await store.schedule.due()) == expected | {LANE: expected[LANE] + 20_000}
    await store.queue.settle([done(item)])


async def test_due_lanes_are_the_same_after_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    await park(store, clocks, 3, due_in_s=30)
    await park(store, clocks, 2, due_in_s=5, lane=OTHER_LANE)
    before = dict(await store.schedule.due())
    store = await stores.crash()
    assert dict(await store.schedule.due()) == before


async def test_a_lane_gets_no_more_than_it_has_room_for(store: Store, clocks: Clocks) -> None:
    await park(store, clocks, 10)
    await park(store, clocks, 10, lane=OTHER_LANE)
    items = await claim(store, 100, {LANE: 3, OTHER_LANE: 5})
    assert [item.lane for item in items].count(LANE) == 3
    assert [item.lane for item in items].count(OTHER_LANE) == 5


TARGETS = tuple(f"apns:{number}" for number in range(100))


async def park_for_many(store: Store, clocks: Clocks, number: int, *, urgent: bool = False) -> list[str]:
    """Events that wait for a hundred devices each."""
    events = await append(store, clocks, number, urgent=urgent)
    items = await claim(store, number, {})
    await store.queue.settle([parked(item, clocks.now_ms, targets=TARGETS) for item in items])
    return [event.id for event in events]


@pytest.mark.parametrize(("room", "claimed"), [(100, 1), (250, 2), (399, 3), (400, 4), (10_000, 20)])
async def test_a_lanes_room_counts_targets(store: Store, clocks: Clocks, room: int, claimed: int) -> None:
    await park_for_many(store, clocks, 20)
    items = await claim(store, 0, {LANE: room})
    assert [item.targets for item in items] == [TARGETS] * claimed


async def test_an_item_with_more_targets_than_there_is_room_for_is_claimed_alone(store: Store, clocks: Clocks) -> None:
    parked_ids = await park_for_many(store, clocks, 3)
    assert [ids(await claim(store, 0, {LANE: 7})) for _ in range(4)] == [*[[id] for id in parked_ids], []]


@pytest.mark.parametrize("room", [1, 7, 100, 150, 450])
async def test_items_with_many_targets_never_starve_the_urgent_nor_the_urgent_them(
    store: Store, clocks: Clocks, room: int
) -> None:
    bulk = set(await park_for_many(store, clocks, 40))
    urgent = set(await park_for_many(store, clocks, 40, urgent=True))
    claimed: list[str] = []
    for _ in range(8):
        claimed += ids(await claim(store, 0, {LANE: room}))
    of_bulk, of_urgent = len(bulk & set(claimed)), len(urgent & set(claimed))
    assert of_bulk >= 2
    assert of_urgent >= 2 * of_bulk


async def test_more_than_a_statement_takes_is_claimed_in_one_go(store: Store, clocks: Clocks) -> None:
    expected = await park(store, clocks, 700)
    urgent = await park(store, clocks, 300, urgent=True)
    assert ids(await claim(store, 0, {LANE: 1000})) == urgent + expected


async def test_a_lane_without_room_delays_no_other(store: Store, clocks: Clocks) -> None:
    await park(store, clocks, 10)
    other = await park(store, clocks, 2, lane=OTHER_LANE)
    assert ids(await claim(store, 100, {LANE: 0, OTHER_LANE: 5})) == other


async def test_a_full_lane_does_not_hold_up_fresh_events(store: Store, clocks: Clocks) -> None:
    await park(store, clocks, 10)
    fresh = await append(store, clocks, 2)
    assert ids(await claim(store, 100, {LANE: 0})) == [event.id for event in fresh]


async def test_within_a_lane_the_urgent_come_first(store: Store, clocks: Clocks) -> None:
    await park(store, clocks, 10)
    urgent = await park(store, clocks, 2, urgent=True)
    items = await claim(store, 0, {LANE: 4})
    assert set(ids(items)[:2]) == set(urgent)
    assert len(items) == 4


@pytest.mark.parametrize("room", [1, 2, 5, 100])
async def test_within_a_lane_the_urgent_never_starve_the_others(store: Store, clocks: Clocks, room: int) -> None:
    bulk = set(await park(store, clocks, room))
    claimed: set[str] = set()
    for _ in range(8):
        await park(store, clocks, room, urgent=True)
        claimed |= set(ids(await claim(store, 0, {LANE: room})))
    assert bulk <= claimed


async def test_parked_items_are_claimed_in_the_order_in_which_they_are_due(store: Store, clocks: Clocks) -> None:
    late, early = await park(store, clocks, 1, due_in_s=2), await park(store, clocks, 1, due_in_s=1)
    clocks.pass_time(5)
    assert ids(await claim(store, 0, {LANE: 1})) == early
    assert ids(await claim(store, 0, {LANE: 1})) == late


async def test_what_outlived_its_lifetime_is_claimed_whatever_its_lane(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 1, lives_s=60)
    await append(store, clocks, 1, lives_s=600)
    items = await claim(store, 10, {})
    await store.queue.settle([parked(item, clocks.now_ms + 500_000) for item in items])
    assert await store.schedule.expire(10) == []
    clocks.pass_time(61)
    (expired,) = await store.schedule.expire(10)
    assert expired.event.id == items[0].event.id
    assert await store.schedule.expire(10) == []
    assert await claim(store, 10, EVERYTHING) == []


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_a_lease_that_ends_gives_a_fresh_event_back(store: Store, clocks: Clocks) -> None:
    (event,) = await append(store, clocks, 1)
    (first,) = await claim(store, 10, {})
    clocks.pass_time(LEASE_S - 1)
    assert await claim(store, 10, {}) == []
    clocks.pass_time(2)
    (second,) = await claim(store, 10, {})
    assert second.event == event
    assert second is not first


async def test_a_lease_that_ends_gives_a_parked_item_back(store: Store, clocks: Clocks) -> None:
    (id,) = await park(store, clocks, 1)
    (first,) = await claim(store, 10, EVERYTHING)
    clocks.pass_time(LEASE_S + 1)
    (second,) = await claim(store, 10, EVERYTHING)
    assert (second.event.id, second.lane, second.targets, second.tries) == (id, LANE, ("apns:a",), 1)
    assert second is not first


async def test_a_lease_lasts_by_the_monotonic_clock_however_the_wall_clock_jumps(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 1)
    assert len(await claim(store, 10, {})) == 1
    clocks.set_wall_clock(by_s=7200)
    assert await claim(store, 10, {}) == []
    clocks.set_wall_clock(by_s=-20_000)
    assert await claim(store, 10, {}) == []
    clocks.pass_time(LEASE_S + 1)
    assert len(await claim(store, 10, {})) == 1


async def test_who_settles_after_the_item_was_offered_again_changes_nothing(store: Store, clocks: Clocks) -> None:
    (event,) = await append(store, clocks, 1)
    (late,) = await claim(store, 10, {})
    clocks.pass_time(LEASE_S + 1)
    (again,) = await claim(store, 10, {})
    before = await store.log.record(event.id)
    assert await store.queue.settle([done(late)]) == [False]
    assert await store.queue.settle([parked(late, clocks.now_ms)]) == [False]
    assert await store.log.record(event.id) == before
    assert (await store.queue.backlog()).events == 1
    assert dict(await store.schedule.due()) == {}
    assert await store.queue.settle([done(again)]) == [True]


async def test_a_late_settlement_changes_nothing_of_those_beside_it(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 2)
    late, other = await claim(store, 10, {})
    clocks.pass_time(LEASE_S + 1)
    again = await claim(store, 10, {})
    assert await store.queue.settle([done(late), done(again[1]), done(other)]) == [False, True, False]
    assert (await store.queue.backlog()).events == 1


async def test_an_item_is_settled_once(store: Store, clocks: Clocks) -> None:
    (event,) = await append(store, clocks, 1)
    (item,) = await claim(store, 10, {})
    assert await store.queue.settle([done(item), done(item)]) == [True, True]
    assert await store.queue.settle([done(item)]) == [True], "it is on record, and was not recorded again"
    record = await store.log.record(event.id)
    assert record is not None
    assert len(record.attempts) == 1
    assert (await store.queue.backlog()).events == 0


async def test_what_is_released_is_offered_again_at_once(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 2)
    one, other = await claim(store, 10, {})
    await store.queue.release([one])
    (again,) = await claim(store, 10, {})
    assert again.event.id == one.event.id
    assert await store.queue.settle([done(one), done(other)]) == [False, True]


async def test_what_is_released_comes_back_under_a_lease_of_its_own(store: Store, clocks: Clocks) -> None:
    (id,) = await park(store, clocks, 1)
    (item,) = await claim(store, 10, EVERYTHING)
    await store.queue.release([item])
    await store.queue.release([item])
    (again,) = await claim(store, 10, {})
    assert (again.event.id, again.lane, again.targets, again.tries) == (id, LANE, item.targets, item.tries)
    assert await claim(store, 10, EVERYTHING) == []


async def test_of_what_is_released_the_urgent_come_first(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 4)
    urgent = await append(store, clocks, 1, urgent=True)
    await store.queue.release(await claim(store, 10, {}))
    assert ids(await claim(store, 4, {}))[0] == urgent[0].id


async def test_waiting_ends_when_something_is_released(store: Store, clocks: Clocks) -> None:
    await append(store, clocks, 1)
    items = await claim(store, 10, {})
    assert await claim(store, 10, {}) == []
    waiting = asyncio.ensure_future(store.queue.wait(30))
    await asyncio.sleep(0)
    await store.queue.release(items)
    await asyncio.wait_for(waiting, 10)


async def test_a_crash_gives_everything_unsettled_back(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    waiting = set(await park(store, clocks, 5))
    fresh = {event.id for event in await append(store, clocks, 5)}
    claimed = await claim(store, 10, EVERYTHING)
    assert set(ids(claimed)) == waiting | fresh
    await store.queue.settle([done(claimed[0])])
    expected = (waiting | fresh) - {claimed[0].event.id}
    store = await stores.crash()
    assert set(ids(await claim(store, 100, EVERYTHING))) == expected
    assert (await store.queue.backlog()).events == len(expected)


async def test_a_claim_whose_caller_has_gone_holds_nothing(store: Store, clocks: Clocks) -> None:
    await park(store, clocks, 3)
    await append(store, clocks, 3)
    claiming = asyncio.ensure_future(claim(store, 10, EVERYTHING))
    await asyncio.sleep(0)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert len(await claim(store, 10, EVERYTHING)) == 6


async def test_a_settlement_whose_caller_has_gone_is_on_record_once(store: Store, clocks: Clocks) -> None:
    (event,) = await append(store, clocks, 1)
    (item,) = await claim(store, 10, {})
    settling = asyncio.ensure_future(store.queue.settle([done(item)]))
    await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    await append(store, clocks, 1)
    assert await store.queue.settle([done(item)]) == [True], "it waits for the commit that is on its way"
    record = await store.log.record(event.id)
    assert record is not None
    assert len(record.attempts) == 1
    clocks.pass_time(LEASE_S + 1)
    assert event.id not in ids(await claim(store, 10, EVERYTHING))


# -- a clock that jumps ------------------------------------------------------------------------------------------------


async def test_a_clock_set_back_delays_no_retry(store: Store, clocks: Clocks) -> None:
    (id,) = await park(store, clocks, 1, due_in_s=30)
    clocks.set_wall_clock(by_s=-7200)
    assert await claim(store, 10, EVERYTHING) == []
    clocks.pass_time(31)
    assert ids(await claim(store, 10, EVERYTHING)) == [id]


async def test_a_clock_set_forward_and_back_delays_no_retry(store: Store, clocks: Clocks) -> None:
    clocks.set_wall_clock(by_s=86_400)
    (id,) = await park(store, clocks, 1, due_in_s=30)
    clocks.set_wall_clock(by_s=-86_400)
    clocks.pass_time(31)
    assert ids(await claim(store, 10, EVERYTHING)) == [id]


async def test_a_clock_set_back_while_the_server_was_down_delays_no_retry(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    (id,) = await park(store, clocks, 1, due_in_s=30)
    clocks.set_wall_clock(by_s=-7200)
    store = await stores.crash()
    clocks.pass_time(31)
    assert ids(await claim(store, 10, EVERYTHING)) == [id]


async def test_a_clock_set_back_is_noticed_by_looking_at_what_is_due(stores: Stores, clocks: Clocks) -> None:
    """Nothing may be claimed between the step and the end of the process, and something be accepted after the step: at
    the next start nothing tells of it."""
    store = await stores.open()
    (id,) = await park(store, clocks, 1, due_in_s=30)
    clocks.set_wall_clock(by_s=-7200)
    await store.schedule.due()
    (newest,) = await append(store, clocks, 1)
    store = await stores.crash()
    clocks.pass_time(31)
    assert sorted(ids(await claim(store, 10, EVERYTHING))) == sorted([id, newest.id])


async def test_a_clock_set_back_does_not_hasten_what_is_not_due(store: Store, clocks: Clocks) -> None:
    await park(store, clocks, 1, due_in_s=600)
    clocks.set_wall_clock(by_s=-7200)
    clocks.pass_time(300)
    assert await claim(store, 10, EVERYTHING) == []


async def test_a_due_time_beyond_any_lifetime_is_brought_back_to_one(store: Store, clocks: Clocks) -> None:
    (event,) = await append(store, clocks, 1)
    (item,) = await claim(store, 10, {})
    await store.queue.settle([Settlement(item, [], [Parked(LANE, 2**52, 1, ("apns:a",))])])
    record = await store.log.record(event.id)
    assert record is not None
    assert record.waiting[0].due_ms == clocks.now_ms + 28 * 24 * 3600 * 1000


# -- large events ------------------------------------------------------------------------------------------------------

MEGABYTE = 1024 * 1024


async def park_large(store: Store, clocks: Clocks, number: int, *, lane: str = LANE, lives_s: float = 1000) -> None:
    await append(store, clocks, number, padding=MEGABYTE, lives_s=lives_s)
    while items := await claim(store, 500, {}):
        await store.queue.settle([parked(item, clocks.now_ms, lane=lane) for item in items])


async def test_large_events_are_claimed_some_megabytes_at_a_time(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    events = [make_event(clocks, padding=MEGABYTE if n % 2 else 10) for n in range(40)]
    await store.queue.append(events)
    store = await stores.crash()
    claims = []
    while items := await claim(store, 500, {}):
        claims.append(items)
    assert [item.event for items in claims for item in items] == events
    assert [len(items) for items in claims] == [16, 16, 8]
    await store.queue.append([make_event(clocks)])
    assert len(await claim(store, 500, {})) == 1


async def test_an_event_larger_than_a_claim_is_claimed_alone(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    await store.queue.append([make_event(clocks, padding=20 * MEGABYTE) for _ in range(2)])
    store = await stores.crash()
    assert [len(await claim(store, 500, {})) for _ in range(3)] == [1, 1, 0]


async def test_large_events_of_one_lane_leave_the_others_their_turn(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    await park_large(store, clocks, 12)
    await park_large(store, clocks, 8, lane=OTHER_LANE)
    claims = []
    while items := await claim(store, 500, EVERYTHING):
        claims.append([item.lane for item in items])
    assert claims[0] == [LANE] * 4 + [OTHER_LANE] * 4, "each lane has its share of what is claimed at a time"
    assert sorted(lane for claim in claims for lane in claim if lane) == [LANE] * 12 + [OTHER_LANE] * 8


async def test_no_more_content_is_claimed_of_a_lane_than_asked_for(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    await park_large(store, clocks, 6)
    await park_large(store, clocks, 6, lane=OTHER_LANE)
    items = await store.schedule.claim_due(EVERYTHING, size_bytes=2 * MEGABYTE)
    assert [item.lane for item in items] == [LANE] * 2 + [OTHER_LANE] * 2
    items = await store.schedule.claim_due(EVERYTHING, size_bytes=0)
    assert [item.lane for item in items] == [LANE, OTHER_LANE], "one of each lane in any case"


async def test_of_some_lanes_only_what_is_urgent_is_claimed(store: Store, clocks: Clocks) -> None:
    for lane in (LANE, OTHER_LANE):
        await park(store, clocks, 3, lane=lane)
        await park(store, clocks, 2, lane=lane, urgent=True)
    items = await store.schedule.claim_due(EVERYTHING, only={LANE: True})
    assert sorted((item.lane, item.event.urgent) for item in items) == sorted(
        [(LANE, True)] * 2 + [(OTHER_LANE, True)] * 2 + [(OTHER_LANE, False)] * 3
    )
    due = await store.schedule.due()
    assert (due[LANE] <= clocks.now_ms, OTHER_LANE in due) == (True, False), "the rest of the lane is due as before"
    assert await store.schedule.claim_due(EVERYTHING, only={LANE: True}) == []
    assert [item.event.urgent for item in await store.schedule.claim_due(EVERYTHING)] == [False] * 3


async def test_of_some_lanes_only_what_is_not_urgent_is_claimed(store: Store, clocks: Clocks) -> None:
    await park(store, clocks, 3)
    await park(store, clocks, 2, urgent=True)
    items = await store.schedule.claim_due(EVERYTHING, only={LANE: False})
    assert [item.event.urgent for item in items] == [False] * 3
    assert (await store.schedule.due())[LANE] <= clocks.now_ms
    assert [item.event.urgent for item in await store.schedule.claim_due(EVERYTHING)] == [True] * 2


async def test_what_was_woken_and_is_not_urgent_is_not_forgotten_where_only_urgent_ones_are_claimed(
    store: Store, clocks: Clocks
) -> None:
    await park(store, clocks, 3, due_in_s=600)
    await park(store, clocks, 2, urgent=True, due_in_s=600)
    await store.schedule.wake([LANE])
    assert len(await store.schedule.claim_due(EVERYTHING, only={LANE: True})) == 2
    assert (await store.schedule.due())[LANE] <= clocks.now_ms
    assert len(await store.schedule.claim_due(EVERYTHING)) == 3


async def test_large_events_that_expire_are_claimed_some_megabytes_at_a_time(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    await park_large(store, clocks, 20, lives_s=10)
    clocks.pass_time(20)
    assert [len(await store.schedule.expire(500)) for _ in range(4)] == [8, 8, 4, 0]


async def test_the_trace_of_an_event_is_kept_until_it_is_settled(stores: Stores, clocks: Clocks) -> None:
    """Also by what is read back from the disk, and in another hour; a repeat without it is the same event."""
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    plain = [make_event(clocks), make_event(clocks)]
    events = [replace(plain[0], trace=trace), plain[1]]
    store = await stores.open()
    await store.queue.append(events)
    await store.queue.append(plain)
    store = await stores.crash()
    items = await claim(store, 10, {})
    assert [item.event for item in items] == events
    assert all(await store.queue.settle([parked(item, clocks.now_ms) for item in items]))
    due = await store.schedule.claim_due({LANE: 10})
    assert {item.event.id: item.event.trace for item in due} == {events[0].id: trace, events[1].id: b""}
    assert all(await store.queue.settle([done(item, Result.REFUSED) for item in due]))
    assert await store.log.replay([events[0].id], 60_000) == 1
    record = await store.log.record(events[0].id)
    assert record is not None
    assert (record.event.body, record.event.trace) == (plain[0].body, trace)
    (again,) = await store.schedule.claim_due({LANE: 10})
    assert (again.event.body, again.event.trace) == (plain[0].body, trace)


async def test_a_claim_of_one_finds_the_event_behind_changes_of_the_registry(store: Store, clocks: Clocks) -> None:
    for token in "abc":
        await store.registry.delete(OWNER, "apns", DeviceToken(token))
    event = make_event(clocks)
    await store.queue.append([event])
    assert [item.event.id for item in await store.queue.claim(1)] == [event.id]
