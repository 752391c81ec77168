"""Bulk actions over a filter: what they are done to, how many there are, over a stop and a crash."""

from __future__ import annotations

import asyncio
from uuid import UUID

import msgspec
import pytest
from tests.contract.factories import Stores
from tests.contract.support import (
    DAY_MS,
    LANE,
    OTHER_LANE,
    OTHER_OWNER,
    OWNER,
    device_of,
    make_event,
    register,
    registration,
)
from tests.support.clocks import Clocks

from tocsin.domain.events import UserId
from tocsin.service import bulk_jobs
from tocsin.service.bulk_jobs import BulkJobs
from tocsin.store import bulk
from tocsin.store.bulk import Action, Filter, Plan, preview
from tocsin.store.ports import Store, StoreUnavailable, UnknownCursor
from tocsin.store.records import Attempt, Cursor, DeadToken, Job, JobState, Settlement, State


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_jobs, "_PAUSE_S", 0.0)
    monkeypatch.setattr(bulk_jobs, "_STORE_RETRY_S", 0.0)


async def dead(store: Store, clocks: Clocks, *letters: tuple[str, str]) -> list[str]:
    """Dead letters, refused on this lane for this reason."""
    events = [make_event(clocks, owner=OWNER if lane == LANE else OTHER_OWNER) for lane, _ in letters]
    await store.queue.append(events)
    items = {item.event.id: item for item in await store.queue.claim(100_000)}
    settlements = []
    for event, (lane, reason) in zip(events, letters, strict=True):
        device = "apns:a" if lane == LANE else "fcm:b"
        refused = Attempt(clocks.now_ms, device, lane, "refused", 400, reason)
        settlements.append(Settlement(items[event.id], [refused], []))
    await store.queue.settle(settlements)
    return [event.id for event in events]


def everything(clocks: Clocks, **fields: object) -> Filter:
    return Filter(until_ms=clocks.now_ms + 1, **fields)  # type: ignore[arg-type]


async def ran(store: Store, action: Action, wanted: Filter) -> Job:
    plan = Plan(wanted, DAY_MS, 100)
    job = await store.jobs.create(action, msgspec.json.encode(plan))
    await BulkJobs(store).run()
    found = await store.jobs.get(job.id)
    assert found is not None
    return found


async def states(store: Store, ids: list[str]) -> list[State]:
    return [(await store.log.record(id)).state for id in ids]  # type: ignore[arg-type,union-attr]


async def test_what_matches_is_replayed_and_nothing_else(store: Store, clocks: Clocks) -> None:
    ids = await dead(store, clocks, (LANE, "BadTopic"), (LANE, "PayloadTooLarge"), (OTHER_LANE, "BadTopic"))
    job = await ran(store, Action.REPLAY, everything(clocks, reason="BadTopic", lanes=[LANE]))
    assert (job.state, job.done, job.skipped) == (JobState.DONE, 1, 0)
    assert await states(store, ids) == [State.DELIVERING, State.DEAD, State.DEAD]
    (entry,) = (await store.audit.page(10)).entries
    assert b"deadletter.replay" in entry.text
    assert job.id.encode() in entry.text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"owner": OTHER_OWNER}, [2]),
        ({"system": "fcm"}, [2]),
        ({"outcome": "expired"}, []),
        ({"outcome": "refused"}, [0, 1, 2]),
        ({"message": "chat_message"}, []),
        ({"from_ms": 2**60}, []),
        ({}, [0, 1, 2]),
    ],
)
async def test_each_field_of_the_filter_counts(
    store: Store, clocks: Clocks, fields: dict[str, object], expected: list[int]
) -> None:
    ids = await dead(store, clocks, (LANE, "BadTopic"), (LANE, "PayloadTooLarge"), (OTHER_LANE, "BadTopic"))
    wanted = everything(clocks, **fields)
    found = await preview(store, Action.DISCARD, wanted, lambda: False)
    assert (found.estimate, found.exact, found.looked_at) == (len(expected), True, 3)
    assert sorted(found.examples) == sorted(ids[index] for index in expected)
    job = await ran(store, Action.DISCARD, wanted)
    assert job.done == len(expected)
    assert [index for index, state in enumerate(await states(store, ids)) if state is State.DONE] == expected


async def test_what_comes_later_is_not_touched(store: Store, clocks: Clocks) -> None:
    wanted = everything(clocks)
    clocks.pass_time(1)
    ids = await dead(store, clocks, (LANE, "BadTopic"))
    assert (await ran(store, Action.DISCARD, wanted)).done == 0
    assert await states(store, ids) == [State.DEAD]


async def test_many_go_in_steps_that_a_stop_ends(store: Store, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_jobs, "PAGE", 3)
    await dead(store, clocks, *[(LANE, "BadTopic")] * 10)
    job = await store.jobs.create("discard", msgspec.json.encode(Plan(everything(clocks))))
    runner = BulkJobs(store)
    step = runner._step

    async def stopped_in_the_second(*arguments: object) -> str | None:
        position = await step(*arguments)  # type: ignore[arg-type]
        if (await store.jobs.get(job.id)).done == 6:  # type: ignore[union-attr]
            await store.jobs.stop(job.id)
        return position

    monkeypatch.setattr(runner, "_step", stopped_in_the_second)
    await runner.run()
    ended = await store.jobs.get(job.id)
    assert ended is not None
    assert (ended.state, ended.done) == (JobState.STOPPED, 6)
    assert await store.log.count_dead_letters() == 4


async def test_a_job_goes_on_after_a_crash(stores: Stores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_jobs, "PAGE", 3)
    store = await stores.open()
    await dead(store, clocks, *[(LANE, "BadTopic")] * 10)
    job = await store.jobs.create("discard", msgspec.json.encode(Plan(everything(clocks))))
    taken = await store.jobs.take(["discard"])
    assert taken is not None
    await BulkJobs(store)._step(taken, msgspec.json.decode(job.arguments, type=Plan), "")
    store = await stores.crash()
    await BulkJobs(store).run()
    ended = await store.jobs.get(job.id)
    assert ended is not None
    assert (ended.state, ended.done, await store.log.count_dead_letters()) == (JobState.DONE, 10, 0)


async def test_a_store_that_fails_for_a_while_delays_a_job_and_no_more(
    store: Store, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dead(store, clocks, (LANE, "BadTopic"))
    failures = iter([True, True, False])
    discard = type(store.log).discard

    async def failing(self: object, ids: object) -> int:
        if next(failures, False):
            raise StoreUnavailable("the disk is full")
        return await discard(self, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store.log), "discard", failing)
    job = await ran(store, Action.DISCARD, everything(clocks))
    assert (job.state, job.done) == (JobState.DONE, 1)


async def test_a_job_that_cannot_be_run_has_failed_and_the_next_one_runs(store: Store, clocks: Clocks) -> None:
    bad = await store.jobs.create("discard", b"no plan")
    await dead(store, clocks, (LANE, "BadTopic"))
    assert (await ran(store, Action.DISCARD, everything(clocks))).done == 1
    failed = await store.jobs.get(bad.id)
    assert failed is not None
    assert failed.state is JobState.FAILED
    assert "see the server's log" in failed.error


async def test_an_estimate_is_made_from_the_newest_where_there_are_too_many(
    store: Store, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PAGE", 10)
    await dead(store, clocks, *[(LANE, "BadTopic"), (LANE, "PayloadTooLarge")] * 50)
    found = await preview(store, Action.REPLAY, everything(clocks, reason="BadTopic"), lambda: True)
    assert (found.exact, found.looked_at, found.estimate, len(found.examples)) == (False, 10, 50, 5)


async def test_of_removals_it_is_said_how_many_match_at_least_where_not_all_were_looked_at(
    store: Store, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PAGE", 4)
    for number in range(10):
        await removed(store, f"{number}", "BadDeviceToken" if number % 2 else "Unregistered")
    wanted = everything(clocks, reason="BadDeviceToken")
    first = await preview(store, Action.RESTORE, wanted, lambda: True)
    assert (first.estimate, first.at_least, first.exact, first.looked_at, first.total) == (2, True, False, 4, None)
    whole = await preview(store, Action.RESTORE, wanted, lambda: False)
    assert (whole.estimate, whole.at_least, whole.exact, whole.looked_at, whole.total) == (5, False, True, 10, 5)


# -- removals and quarantine -------------------------------------------------------------------------------------------


async def removed(store: Store, token: str, reason: str, account: str = "x", *, quarantine: bool = False) -> None:
    await register(store, token)
    device = await device_of(store, token)
    await store.registry.remove_dead([DeadToken(device, account, reason)], quarantine=quarantine)


async def test_removals_are_listed_in_pages_newest_first(store: Store) -> None:
    for number in range(7):
        await removed(store, f"{number}", "Unregistered")
    seen: list[str] = []
    start: Cursor | None = None
    while True:
        page = await store.registry.removals(3, start=start)
        seen += [one.device.token for one in page.removals]
        start = page.next
        if start is None:
            break
    assert seen == list("6543210")
    with pytest.raises(UnknownCursor):
        await store.registry.removals(3, start=Cursor("first"))


async def test_removed_registrations_come_back_by_filter(store: Store, clocks: Clocks) -> None:
    await removed(store, "a", "Unregistered")
    await removed(store, "b", "BadDeviceToken")
    await removed(store, "c", "BadDeviceToken", "another application")
    await register(store, "d")
    await store.registry.delete(OWNER, "apns", (await device_of(store, "d")).token)
    found = await preview(store, Action.RESTORE, everything(clocks, reason="BadDeviceToken"), lambda: False)
    assert (found.estimate, sorted(found.examples)) == (2, ["apns:b…", "apns:c…"])
    job = await ran(store, Action.RESTORE, everything(clocks, reason="BadDeviceToken", account="x"))
    assert (job.state, job.done) == (JobState.DONE, 1)
    devices = (await store.registry.devices_of([OWNER]))[OWNER]
    assert [device.token for device in devices] == ["b"]
    job = await ran(store, Action.RESTORE, everything(clocks))
    assert job.done == 2
    assert job.skipped == 1, "its user has deleted it"


async def test_a_quarantine_is_released_or_purged(store: Store, clocks: Clocks) -> None:
    for token in "ab":
        await removed(store, token, "Unregistered", "one", quarantine=True)
    await removed(store, "c", "Unregistered", "other", quarantine=True)
    found = await preview(store, Action.RELEASE, everything(clocks, account="one"), lambda: False)
    assert (found.estimate, found.exact) == (2, True)
    assert (await ran(store, Action.RELEASE, everything(clocks, account="one"))).done == 2
    assert (await ran(store, Action.PURGE, everything(clocks, account="other"))).done == 1
    assert await store.registry.quarantine() == []
    assert len((await store.registry.devices_of([OWNER]))[OWNER]) == 2


async def test_a_release_is_stopped_midway(store: Store, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    registrations = [registration(f"{number}", owner=UserId(str(UUID(int=number)))) for number in range(1200)]
    await store.registry.add_many(registrations, 100)
    found = await store.registry.devices_of([one.owner for one in registrations])
    dead_tokens = [DeadToken(device, "one", "Unregistered") for own in found.values() for device in own]
    await store.registry.remove_dead(dead_tokens, quarantine=True)
    plan = Plan(everything(clocks, account="one"), max_tokens=100)
    job = await store.jobs.create("release", msgspec.json.encode(plan))
    progress = store.jobs.progress

    async def stopped_after_a_step(id: str, position: str, *, done: int, skipped: int = 0) -> bool:
        if done:
            await store.jobs.stop(job.id)
        return await progress(id, position, done=done, skipped=skipped)

    monkeypatch.setattr(store.jobs, "progress", stopped_after_a_step)
    await BulkJobs(store).run()
    ended = await store.jobs.get(job.id)
    assert ended is not None
    assert (ended.state, ended.skipped) == (JobState.STOPPED, 0)
    assert 0 < ended.done < 1200
    (held,) = await store.registry.quarantine()
    assert held.tokens == 1200 - ended.done


async def test_jobs_are_run_one_after_the_other(store: Store, clocks: Clocks) -> None:
    await dead(store, clocks, *[(LANE, "BadTopic")] * 5)
    for _ in range(3):
        await store.jobs.create("discard", msgspec.json.encode(Plan(everything(clocks))))
    async with asyncio.timeout(30):
        await BulkJobs(store).run()
    assert sorted(job.done for job in (await store.jobs.page(10)).jobs) == [0, 0, 5]
