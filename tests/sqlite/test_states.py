"""The state that SQL computes is the one that `states.py` computes, for every way in which an event can be settled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import product

import pytest
from msgspec import Struct
from tests.contract.support import attempt, ids, make_event
from tests.support.clocks import Clocks

from tocsin.domain.events import Event, EventId
from tocsin.store.records import Attempt, Item, Parked, Result, Settlement, State
from tocsin.store.sqlite.store import SqliteStore
from tocsin.store.states import AFTER_DISCARD, after_replay, after_settlement, keeps_body

LANES = ("lane 0", "lane 1")
GOOD, BAD = (Result.DELIVERED, Result.TOKEN_DEAD, Result.CANCELLED), (Result.REFUSED, Result.EXPIRED)


class Step(Struct, frozen=True):
    """How one item is settled: whether a device of it ends in a dead letter, and in how many lanes it is parked."""

    dead: bool
    lanes: int


class Course(Struct, frozen=True):
    """How an event is settled: at first, and then what is parked in each lane."""

    first: Step
    then: tuple[Step, ...]
    at_once: bool
    """Whether what is parked is settled in one transaction."""


def courses() -> Iterator[Course]:
    for dead, lanes, at_once in product((False, True), range(len(LANES) + 1), (False, True)):
        for then in product([Step(*pair) for pair in product((False, True), range(len(LANES) + 1))], repeat=lanes):
            yield Course(Step(dead, lanes), then, at_once)


class Expected:
    """What is known of an event by counting: what of it is parked, and whether it has a dead letter in this round."""

    def __init__(self) -> None:
        self.waiting = 0
        self.dead = False

    def settled(self, step: Step, *, was_parked: bool) -> None:
        self.waiting += step.lanes - was_parked
        self.dead = self.dead or step.dead

    @property
    def state(self) -> State:
        return after_settlement(waiting=self.waiting > 0, dead=self.dead)


def settlement(item: Item, step: Step, clocks: Clocks, number: int) -> Settlement:
    results = BAD if step.dead else GOOD
    attempts = [attempt("apns:a", results[number % len(results)]), attempt("apns:b", GOOD[number % len(GOOD)])]
    parked = [Parked(lane, clocks.now_ms, item.tries + 1, ("apns:c",)) for lane in LANES[: step.lanes]]
    return Settlement(item, attempts[: 1 + number % 2], parked)


async def check_state(store: SqliteStore, event: Event, expected: Expected, course: Course) -> None:
    record = await store.log.record(event.id)
    assert record is not None
    assert record.state is expected.state, course
    assert record.event.body == (event.body if keeps_body(expected.state) else b""), course
    assert len(record.waiting) == expected.waiting, course
    columns = "SELECT waiting, dead, state FROM event WHERE id = ?"
    row = await store.database.read(lambda driver: driver.execute(columns, (event.id,)).fetchone())
    assert row == (expected.waiting, int(expected.dead), int(expected.state)), course


@pytest.mark.parametrize("alone", [False, True])
async def test_the_state_after_a_settlement_is_that_of_the_state_machine(
    store: SqliteStore, clocks: Clocks, alone: bool
) -> None:
    """At first each event by itself, or all in one transaction; then what was parked of it, together or one by one."""
    all_courses = list(courses())
    assert len(all_courses) == 2 * 2 * (1 + 6 + 36)
    events = [make_event(clocks) for _ in all_courses]
    expected = [Expected() for _ in all_courses]
    await store.queue.append(events)
    items = await store.queue.claim(len(events))
    assert ids(items) == [event.id for event in events]
    at_first = enumerate(zip(items, all_courses, strict=True))
    await _settle(store, [settlement(item, course.first, clocks, n) for n, (item, course) in at_first], alone=alone)
    for event, course, one in zip(events, all_courses, expected, strict=True):
        one.settled(course.first, was_parked=False)
        await check_state(store, event, one, course)

    numbers = {event.id: number for number, event in enumerate(events)}
    parked = await store.schedule.claim_due(dict.fromkeys(LANES, 10_000))
    assert len(parked) == sum(course.first.lanes for course in all_courses)
    steps = [(item, all_courses[numbers[item.event.id]].then[LANES.index(item.lane or "")]) for item in parked]
    at_once = [(item, step) for item, step in steps if all_courses[numbers[item.event.id]].at_once]
    one_by_one = [[pair] for pair in steps if pair not in at_once]
    for group in [at_once, *one_by_one]:
        await _settle(store, [settlement(item, step, clocks, n) for n, (item, step) in enumerate(group)], alone=False)
        for item, step in group:
            expected[numbers[item.event.id]].settled(step, was_parked=True)
        for item, _ in group:
            number = numbers[item.event.id]
            await check_state(store, events[number], expected[number], all_courses[number])
    for event, course, one in zip(events, all_courses, expected, strict=True):
        await check_state(store, event, one, course)
    unfinished = sum(one.waiting > 0 for one in expected)
    assert (await store.queue.backlog()).events == unfinished
    assert await store.log.count_dead_letters() == sum(one.state is State.DEAD for one in expected)


async def _settle(store: SqliteStore, settlements: list[Settlement], *, alone: bool) -> None:
    if alone:
        answers = await asyncio.gather(*(store.queue.settle([one]) for one in settlements))
    else:
        answers = [await store.queue.settle(settlements)]
    assert [settled for answer in answers for settled in answer] == [True] * len(settlements)


async def settled_as(store: SqliteStore, clocks: Clocks, *attempts: Attempt) -> EventId:
    event = make_event(clocks)
    await store.queue.append([event])
    (item,) = await store.queue.claim(1)
    await store.queue.settle([Settlement(item, list(attempts), [])])
    return event.id


async def state_of(store: SqliteStore, id: EventId) -> tuple[State, bool]:
    """With whether its content is kept."""
    record = await store.log.record(id)
    assert record is not None
    return record.state, record.event.body != b""


async def test_the_state_after_a_replay_is_that_of_the_state_machine(store: SqliteStore, clocks: Clocks) -> None:
    refused = await settled_as(store, clocks, attempt("apns:a", Result.REFUSED))
    delivered_since = await settled_as(store, clocks, attempt("apns:a", Result.REFUSED), attempt("apns:a"))
    for id in (refused, delivered_since):
        assert await state_of(store, id) == (State.DEAD, keeps_body(State.DEAD))
    assert await store.log.replay(None, 60_000) == 2
    for id, devices in ((refused, True), (delivered_since, False)):
        state = after_replay(devices=devices)
        assert await state_of(store, id) == (state, keeps_body(state))


@pytest.mark.parametrize("result", [*GOOD, *BAD])
async def test_the_state_after_a_replayed_event_is_settled_is_that_of_its_new_round(
    store: SqliteStore, clocks: Clocks, result: Result
) -> None:
    id = await settled_as(store, clocks, attempt("apns:a", Result.REFUSED))
    await store.log.replay([id], 60_000)
    (item,) = await store.schedule.claim_due(dict.fromkeys(await store.schedule.due(), 1))
    await store.queue.settle([Settlement(item, [attempt("apns:a", result)], [])])
    state = after_settlement(waiting=False, dead=result in BAD)
    assert await state_of(store, id) == (state, keeps_body(state))


async def test_the_state_after_a_dead_letter_is_discarded_is_that_of_the_state_machine(
    store: SqliteStore, clocks: Clocks
) -> None:
    id = await settled_as(store, clocks, attempt("apns:a", Result.EXPIRED))
    assert await store.log.discard([id]) == 1
    assert await state_of(store, id) == (AFTER_DISCARD, keeps_body(AFTER_DISCARD))
