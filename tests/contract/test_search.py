"""Search: what is found, in which order, in pages, and how far behind the index is."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from tests.contract.factories import Stores
from tests.contract.support import (
    DAY_MS,
    EVERYTHING,
    LANE,
    OTHER_LANE,
    OTHER_OWNER,
    OWNER,
    attempt,
    claim,
    done,
    keep,
    make_event,
    parked,
)
from tests.contract.test_bulk import dead, ran, states
from tests.support.clocks import Clocks

from tocsin.domain.events import Event, UserId
from tocsin.store.bulk import Action, Filter, preview, query_of
from tocsin.store.ports import Store, UnknownCursor
from tocsin.store.records import (
    ACCEPTED,
    NO_DEVICE,
    WAITING,
    Attempt,
    Cursor,
    Findings,
    Item,
    Parked,
    Query,
    Result,
    Settlement,
    State,
)
from tocsin.store.searching import matching

EVERY = Query()


async def filled(store: Store) -> None:
    while await store.search.fill(1.0):
        pass


async def found(store: Store, query: Query = EVERY, limit: int = 1000) -> list[tuple[str, str, str]]:
    """Event, device and outcome of all that is found."""
    page = await store.search.find(query, limit, for_s=60)
    assert page.complete
    assert page.next is None
    return rows(page)


def rows(page: Findings) -> list[tuple[str, str, str]]:
    return [(one.record.event.id, state.device, state.outcome) for one in page.found for state in one.deliveries]


async def appended(store: Store, *events: Event) -> dict[str, Item]:
    await store.queue.append(events)
    return {item.event.id: item for item in await store.queue.claim(100_000)}


def refused(item: Item, reason: str, device: str = "apns:a", lane: str = LANE) -> Settlement:
    return Settlement(item, [Attempt(1, device, lane, "refused", 400, reason)], [])


async def test_what_was_settled_is_found_newest_first_by_each_of_its_properties(store: Store, clocks: Clocks) -> None:
    one = make_event(clocks)
    other = make_event(clocks, owner=OTHER_OWNER, urgent=True)
    none = make_event(clocks)
    items = await appended(store, one, other, none)
    fine = attempt("fcm:b", lane=OTHER_LANE)
    bad = Attempt(1, "apns:a", LANE, "refused", 400, "BadTopic")
    await store.queue.settle(
        [Settlement(items[one.id], [bad, fine], []), done(items[other.id]), Settlement(items[none.id], [], [])]
    )
    await filled(store)
    everything = [
        (none.id, "", NO_DEVICE),
        (other.id, "apns:a", "delivered"),
        (one.id, "apns:a", "refused"),
        (one.id, "fcm:b", "delivered"),
    ]
    assert await found(store) == everything
    expected: list[tuple[Query, list[int]]] = [
        (Query(owners=frozenset({OWNER})), [0, 2, 3]),
        (Query(owners=frozenset({OWNER, OTHER_OWNER})), [0, 1, 2, 3]),
        (Query(owners=frozenset({OTHER_OWNER}), outcomes=frozenset({"refused"})), []),
        (Query(devices=frozenset({"fcm:b"})), [3]),
        (Query(devices=frozenset({"fcm:b"}), owners=frozenset({OWNER})), [3]),
        (Query(provider="apns"), [1, 2]),
        (Query(lanes=frozenset({OTHER_LANE})), [3]),
        (Query(outcomes=frozenset({"refused", NO_DEVICE})), [0, 2]),
        (Query(outcomes=frozenset({"refused"}), provider="fcm"), []),
        (Query(reason="BadTopic"), [2]),
        (Query(reason="badtopic"), []),
        (Query(message="fax_new"), [0, 2, 3]),
        (Query(message="fax_new", outcomes=frozenset({"delivered"})), [3]),
    ]
    for query, wanted in expected:
        assert await found(store, query) == [everything[index] for index in wanted], query


async def test_the_time_is_that_of_the_acceptance(store: Store, clocks: Clocks) -> None:
    events = []
    for _ in range(5):
        events.append(make_event(clocks))
        await store.queue.append(events[-1:])
        clocks.pass_time(3600)
    await store.queue.settle([done(item) for item in await store.queue.claim(10)])
    await filled(store)
    second, fourth = events[1].accepted_ms, events[3].accepted_ms
    ids = [id for id, *_ in await found(store, Query(from_ms=second, until_ms=fourth))]
    assert ids == [events[2].id, events[1].id]


async def test_a_delivery_is_found_as_it_stands_now_and_once(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    items = await appended(store, event)
    await store.queue.settle([parked(items[event.id], clocks.now_ms)])
    await filled(store)
    (row,) = await found(store)
    assert row == (event.id, "apns:a", WAITING)
    again = await claim(store, 0, EVERYTHING)
    await store.queue.settle([refused(again[0], "BadCollapseId")])
    await filled(store)
    assert await found(store) == [(event.id, "apns:a", "refused")]
    assert await found(store, Query(outcomes=frozenset({WAITING}))) == []
    await store.log.replay(None, DAY_MS)
    await filled(store)
    assert await found(store) == [(event.id, "apns:a", WAITING)]
    again = await claim(store, 0, EVERYTHING)
    await store.queue.settle([refused(again[0], "BadCollapseId")])
    await store.log.discard(None)
    await filled(store)
    assert await found(store, Query(outcomes=frozenset({"refused"}))) == [(event.id, "apns:a", "refused")]


async def listed(store: Store, wanted: Filter, limit: int = 1000) -> list[str]:
    """The events of the dead letters that a list with this filter shows on its first page."""
    await filled(store)
    page = await store.search.find(query_of(wanted), limit, for_s=60)
    return [one.record.event.id for one in page.found]


async def test_a_list_shows_by_the_last_attempt_what_a_job_with_its_filter_takes(store: Store, clocks: Clocks) -> None:
    old = await dead(store, clocks, (LANE, "BadTopic"))
    today_ms = clocks.now_ms + 20 * DAY_MS
    late = make_event(clocks)
    await store.queue.append([late])
    (item,) = await store.queue.claim(10)
    expired = Attempt(today_ms, "apns:a", LANE, "expired")
    await store.queue.settle([Settlement(item, [expired], [])])
    for fields, expected in (
        ({}, {*old, late.id}),
        ({"from_ms": today_ms}, {late.id}),
        ({"outcome": "expired"}, {late.id}),
        ({"from_ms": today_ms, "outcome": "refused"}, set()),
        ({"reason": "BadTopic"}, set(old)),
        ({"owner": OTHER_OWNER}, set()),
    ):
        wanted = Filter(until_ms=today_ms + 1, **fields)  # type: ignore[arg-type]
        assert set((await preview(store, Action.DISCARD, wanted, lambda: False)).examples) == expected, fields
        assert set(await listed(store, wanted)) == expected, fields
    assert await listed(store, Filter(until_ms=today_ms)) == old
    assert (await ran(store, Action.DISCARD, Filter(until_ms=today_ms))).done == 1
    assert await states(store, [*old, late.id]) == [State.DONE, State.DEAD]


async def test_a_page_of_dead_letters_is_full_though_newer_ones_were_discarded(store: Store, clocks: Clocks) -> None:
    kept = await dead(store, clocks, *[(LANE, "BadTopic")] * 3)
    discarded = await dead(store, clocks, *[(LANE, "BadTopic")] * 5)
    await store.log.discard(discarded)  # type: ignore[arg-type]
    assert await listed(store, Filter(until_ms=clocks.now_ms + 1), 3) == kept[::-1]


async def test_what_nobody_has_tried_yet_is_found_without_the_index(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    assert await found(store, Query(owners=frozenset({OWNER}))) == [(event.id, "", ACCEPTED)]
    assert await found(store, Query(owners=frozenset({OTHER_OWNER}))) == []
    assert await found(store, Query(outcomes=frozenset({"delivered"}))) == []


async def test_a_delivery_that_waits_says_until_when_and_what_was_said_last(store: Store, clocks: Clocks) -> None:
    event = make_event(clocks)
    items = await appended(store, event)
    last = Attempt(7, "apns:a", LANE, "retry", 429, "TooManyRequests", retry_at_ms=9)
    await store.queue.settle([Settlement(items[event.id], [last], [Parked(LANE, 12345, 1, ("apns:a",))])])
    await filled(store)
    page = await store.search.find(Query(reason="TooManyRequests"), 10)
    (state,) = page.found[0].deliveries
    assert (state.outcome, state.status, state.reason, state.at_ms, state.due_ms, state.attempts) == (
        WAITING,
        429,
        "TooManyRequests",
        7,
        12345,
        1,
    )


async def test_pages_follow_each_other_and_have_everything_once(store: Store, clocks: Clocks) -> None:
    events = [make_event(clocks, owner=OWNER if n % 3 else OTHER_OWNER) for n in range(50)]
    items = await appended(store, *events)
    await store.queue.settle([done(item) for item in items.values()])
    await filled(store)
    for query in (EVERY, Query(owners=frozenset({OWNER}))):
        seen: list[tuple[str, str, str]] = []
        start: Cursor | None = None
        while True:
            page = await store.search.find(query, 7, start=start, for_s=60)
            assert len(rows(page)) <= 7
            seen += rows(page)
            start = page.next
            if start is None:
                break
        assert seen == await found(store, query)
    with pytest.raises(UnknownCursor):
        await store.search.find(EVERY, 7, start=Cursor("yesterday"))


async def test_a_search_whose_time_is_over_says_so_and_can_be_gone_on_with(store: Store, clocks: Clocks) -> None:
    events = [make_event(clocks) for _ in range(1000)]
    items = await appended(store, *events)
    await store.queue.settle([done(item) for item in items.values()])
    await filled(store)
    # Of another token: every event has to be looked at, and each call may take no time at all.
    query = Query(devices=frozenset({"apns:zzz"}))
    calls, start = 0, None
    while True:
        page = await store.search.find(query, 10, start=start, for_s=-1.0)
        calls += 1
        assert page.found == []
        start = page.next
        if start is None:
            assert page.complete
            break
        assert not page.complete
        assert page.looked_back_to_ms is not None
    assert 1 < calls < 1000


async def test_how_far_the_index_is_behind_is_said(store: Store, clocks: Clocks) -> None:
    await filled(store)
    assert (await store.search.state()).behind_s == 0
    event = make_event(clocks)
    items = await appended(store, event)
    clocks.pass_time(5)
    await store.queue.settle([done(items[event.id])])
    clocks.pass_time(10)
    page = await store.search.find(EVERY, 10)
    assert page.found == []
    assert page.index.waiting_events == 1
    assert page.index.behind_s == pytest.approx(10, abs=1)
    await filled(store)
    state = (await store.search.find(EVERY, 10)).index
    assert (state.behind_s, state.waiting_events, state.rebuilding) == (0, 0, False)
    assert state.indexed_to_ms == clocks.now_ms


async def test_after_a_crash_everything_that_was_settled_is_found(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    events = [make_event(clocks) for _ in range(30)]
    items = await appended(store, *events)
    await store.queue.settle([done(items[event.id]) for event in events[:10]])
    await filled(store)
    await store.queue.settle([done(items[event.id]) for event in events[10:20]])
    store = await stores.crash()
    await filled(store)
    outcomes = frozenset({"delivered"})
    assert [id for id, *_ in await found(store, Query(outcomes=outcomes))] == [event.id for event in events[19::-1]]
    await store.queue.settle([done(item) for item in await store.queue.claim(100)])
    await filled(store)
    assert [id for id, *_ in await found(store)] == [event.id for event in events[::-1]]


async def test_what_is_pruned_is_found_no_more(store: Store, clocks: Clocks) -> None:
    events = [make_event(clocks) for _ in range(3)]
    items = await appended(store, *events)
    await store.queue.settle([done(items[events[0].id]), refused(items[events[1].id], "BadTopic")])
    await filled(store)
    clocks.pass_time(3 * 24 * 3600)
    while await store.prune(keep(24 * 3600, 24 * 3600, 30 * 24 * 3600)):
        pass
    await filled(store)
    kept = [id for id, _, outcome in await found(store) if outcome != ACCEPTED]
    assert kept == [events[1].id]


async def test_nothing_of_a_user_who_was_erased_is_found(store: Store, clocks: Clocks) -> None:
    kept = make_event(clocks, owner=OTHER_OWNER)
    erased = [make_event(clocks) for _ in range(3)]
    items = await appended(store, kept, *erased)
    await store.queue.settle([done(item) for item in items.values()])
    await filled(store)
    await store.users.erase(OWNER)
    expected = [(kept.id, "apns:a", "delivered")]
    assert await found(store) == expected
    await filled(store)
    assert await found(store) == expected
    assert (await store.search.state()).waiting_events == 0


async def test_random_histories_are_found_as_the_records_say(store: Store, clocks: Clocks) -> None:
    rng = random.Random(7)
    owners = [UserId(f"{n:08x}-0000-4000-8000-000000000000") for n in range(4)]
    devices = [f"{provider}:{n}" for provider in ("apns", "fcm") for n in range(3)]
    events: list[Event] = []
    for _ in range(25):
        new = [make_event(clocks, owner=rng.choice(owners), urgent=rng.random() < 0.3) for _ in range(8)]
        events += new
        await store.queue.append(new)
        clocks.pass_time(rng.random() * 100)
        items = await claim(store, 5, EVERYTHING)
        await store.queue.settle([_settled(rng, item, devices, clocks.now_ms) for item in items])
        if rng.random() < 0.3:
            await store.log.replay(None, DAY_MS)
        if rng.random() < 0.5:
            await filled(store)
    await filled(store)
    records = {event.id: await store.log.record(event.id) for event in events}
    for _ in range(60):
        query = _query(rng, owners, devices, events)
        expected = []
        for record in records.values():
            assert record is not None
            expected += [(record.event.id, one.device, one.outcome) for one in matching(record, query)]
        assert sorted(await found(store, query)) == sorted(expected), query


def _settled(rng: random.Random, item: Item, devices: Iterable[str], now_ms: int) -> Settlement:
    targets = item.targets if item.targets is not None else rng.sample(sorted(devices), rng.randrange(4))
    attempts, waiting = [], []
    for device in targets:
        lane = LANE if device.startswith("apns") else OTHER_LANE
        result = rng.choice([*Result])
        status = rng.choice([0, 200, 400, 503])
        reason = rng.choice(["", "BadTopic", "reset by peer"])
        attempts.append(
            Attempt(now_ms, device, lane, str(result), status, reason, "", None, item.round, item.tries + 1)
        )
        if result in (Result.RETRY, Result.MISCONFIGURED):
            waiting.append(Parked(lane, now_ms, item.tries + 1, (device,)))
    return Settlement(item, attempts, waiting)


def _query(rng: random.Random, owners: list[UserId], devices: list[str], events: list[Event]) -> Query:
    def maybe(value: object) -> object:
        return value if rng.random() < 0.35 else None

    given: dict[str, object] = {
        "owners": maybe(frozenset(rng.sample(owners, 2))),
        "devices": maybe(frozenset(rng.sample(devices, 3))),
        "provider": maybe(rng.choice(["apns", "fcm"])),
        "lanes": maybe(frozenset({rng.choice([LANE, OTHER_LANE])})),
        "outcomes": maybe(frozenset(rng.sample([*Result, WAITING, NO_DEVICE], 3))),
        "reason": maybe(rng.choice(["BadTopic", "reset by peer", ""])),
        "message": maybe(rng.choice(["fax_new", "dialplan_callreverse_start"])),
        "from_ms": maybe(rng.choice(events).accepted_ms),
        "until_ms": maybe(rng.choice(events).accepted_ms),
        "at_from_ms": maybe(rng.choice(events).accepted_ms),
        "at_until_ms": maybe(rng.choice(events).accepted_ms),
        "states": maybe(frozenset(rng.sample([*State], 2))),
    }
    return Query(**given)  # type: ignore[arg-type]
