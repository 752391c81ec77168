"""Jobs: bulk actions that go on over a restart, can be watched, and can be stopped."""

from __future__ import annotations

import pytest
from tests.contract.factories import Stores
from tests.contract.support import keep
from tests.support.clocks import Clocks

from tocsin.store.ports import Store, UnknownCursor
from tocsin.store.records import Cursor, JobState


async def test_a_job_is_taken_once_and_oldest_first(store: Store) -> None:
    first = await store.jobs.create("replay", b'{"a": 1}', total=7)
    second = await store.jobs.create("replay", b"\xff")
    other = await store.jobs.create("purge", b"")
    assert first.state is JobState.WAITING
    taken = [await store.jobs.take(["replay", "discard"]) for _ in range(3)]
    assert [job and job.id for job in taken] == [first.id, second.id, None]
    assert taken[0] is not None
    assert (taken[0].state, taken[0].arguments, taken[0].total) == (JobState.RUNNING, b'{"a": 1}', 7)
    assert await store.jobs.take(["purge"]) == (await store.jobs.get(other.id))


async def test_its_progress_is_on_record(store: Store, clocks: Clocks) -> None:
    job = await store.jobs.create("replay", b"")
    await store.jobs.take(["replay"])
    clocks.pass_time(5)
    assert await store.jobs.progress(job.id, "next", done=3, skipped=1)
    assert await store.jobs.progress(job.id, "end", done=4)
    found = await store.jobs.get(job.id)
    assert found is not None
    assert (found.position, found.done, found.skipped) == ("end", 7, 1)
    assert (found.created_ms, found.changed_ms) == (clocks.now_ms - 5000, clocks.now_ms)
    ended = await store.jobs.finish(job.id)
    assert ended.state is JobState.DONE
    assert await store.jobs.take(["replay"]) is None


async def test_a_job_that_was_running_in_a_crash_goes_on_where_it_was(stores: Stores) -> None:
    store = await stores.open()
    job = await store.jobs.create("replay", b"")
    await store.jobs.take(["replay"])
    await store.jobs.progress(job.id, "half", done=5)
    store = await stores.crash()
    again = await store.jobs.take(["replay"])
    assert again is not None
    assert (again.id, again.position, again.done) == (job.id, "half", 5)


async def test_a_running_job_is_asked_to_stop_and_ends_as_stopped(store: Store) -> None:
    job = await store.jobs.create("replay", b"")
    await store.jobs.take(["replay"])
    assert await store.jobs.stop(job.id)
    assert not await store.jobs.progress(job.id, "half", done=1)
    assert (await store.jobs.finish(job.id)).state is JobState.STOPPED
    assert not await store.jobs.stop(job.id), "it has ended"


async def test_a_job_that_nobody_runs_is_stopped_at_once(stores: Stores) -> None:
    store = await stores.open()
    waiting = await store.jobs.create("replay", b"")
    assert await store.jobs.stop(waiting.id)
    assert await store.jobs.take(["replay"]) is None
    running = await store.jobs.create("replay", b"")
    await store.jobs.take(["replay"])
    await store.jobs.stop(running.id)
    store = await stores.crash()
    assert await store.jobs.take(["replay"]) is None
    found = await store.jobs.get(running.id)
    assert found is not None
    assert found.state is JobState.STOPPED


async def test_a_job_that_fails_says_why(store: Store) -> None:
    job = await store.jobs.create("replay", b"")
    await store.jobs.take(["replay"])
    failed = await store.jobs.finish(job.id, "no such account")
    assert (failed.state, failed.error) == (JobState.FAILED, "no such account")


async def test_jobs_are_listed_newest_first_and_unknown_ones_are_none(store: Store) -> None:
    made = [(await store.jobs.create("replay", b"")).id for _ in range(5)]
    first = await store.jobs.page(3)
    assert [job.id for job in first.jobs] == made[:1:-1]
    second = await store.jobs.page(3, start=first.next)
    assert ([job.id for job in second.jobs], second.next) == (made[1::-1], None)
    assert (await store.jobs.page(5)).next is None
    with pytest.raises(UnknownCursor):
        await store.jobs.page(3, start=Cursor("the first"))
    assert await store.jobs.get("job_unknown") is None
    assert not await store.jobs.stop("job_unknown")
    assert not await store.jobs.progress("job_unknown", "", done=1)
    with pytest.raises(KeyError):
        await store.jobs.finish("job_unknown")


async def test_a_job_that_has_ended_is_forgotten_with_the_rest_and_no_other_is(store: Store, clocks: Clocks) -> None:
    ended = await store.jobs.create("replay", b"")
    await store.jobs.take(["replay"])
    await store.jobs.finish(ended.id)
    waiting = await store.jobs.create("purge", b"")
    clocks.pass_time(29 * 24 * 3600)
    retention = keep(7 * 24 * 3600, 30 * 24 * 3600)
    while await store.prune(retention):
        pass
    assert await store.jobs.get(ended.id) is not None
    clocks.pass_time(2 * 24 * 3600)
    while await store.prune(retention):
        pass
    assert await store.jobs.get(ended.id) is None
    assert await store.jobs.get(waiting.id) is not None
