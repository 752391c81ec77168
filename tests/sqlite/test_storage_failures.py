"""The storage breaks: nobody is told that something is durable, nothing is lost, and all goes on when it is mended."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.contract.support import (
    EVERYTHING,
    LEASE_S,
    OWNER,
    TOKEN,
    claim,
    done,
    ids,
    make_event,
    parked,
    registration,
)
from tests.support.clocks import Clocks
from tests.support.sqlite import SqliteStores

from tocsin.domain.credentials import Credential
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Backlog, Role, State
from tocsin.store.sqlite import claim_sql
from tocsin.store.sqlite.connection import raw
from tocsin.store.sqlite.store import SqliteStore
from tocsin.store.sqlite.transactions import Writes
from tocsin.store.sqlite.worker import ThreadWorker

LARGE = 50_000


async def pragma(store: SqliteStore, text: str) -> int:
    return await store.database.write(lambda driver: driver.execute(f"PRAGMA {text}").fetchone()[0])


@asynccontextmanager
async def full_disk(store: SqliteStore) -> AsyncIterator[None]:
    """SQLite may not take another page."""
    await store.database.write(lambda driver: driver.execute("PRAGMA incremental_vacuum").fetchall())
    usual = await pragma(store, "max_page_count")
    await pragma(store, f"max_page_count={await pragma(store, 'page_count')}")
    yield
    await pragma(store, f"max_page_count={usual}")


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process keeps the write lock."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


async def impatient(store: SqliteStore) -> None:
    await store.database.write(lambda driver: driver.execute("PRAGMA busy_timeout=50").fetchone())


# -- disk full ---------------------------------------------------------------------------------------------------------


async def test_on_a_full_disk_nothing_is_accepted_and_the_caller_is_told(store: SqliteStore, clocks: Clocks) -> None:
    event = make_event(clocks, padding=LARGE)
    async with full_disk(store):
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await store.queue.append([event])
        assert store.database.write_failure is not None
        assert "make room" in store.database.write_failure
        assert store.failures() == [f"the store cannot write: {store.database.write_failure}"]
    assert await store.log.record(event.id) is None
    assert await store.queue.backlog() == Backlog(0, 0)
    await store.queue.append([event])
    assert store.database.write_failure is None
    assert store.failures() == []
    assert ids(await claim(store, 10, {})) == [event.id]


async def test_on_a_full_disk_everyone_in_the_commit_is_refused(store: SqliteStore, clocks: Clocks) -> None:
    async with full_disk(store):
        appends = (store.queue.append([make_event(clocks, padding=LARGE)]) for _ in range(10))
        answers = await asyncio.gather(*appends, store.registry.add(registration("a"), 10), return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers[:10])
    assert await store.queue.backlog() == Backlog(0, 0)
    assert await claim(store, 10, {}) == []


async def test_a_full_disk_is_told_of_by_every_port(store: SqliteStore, clocks: Clocks) -> None:
    async with full_disk(store):
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await many_credentials(store)


async def many_credentials(store: SqliteStore) -> None:
    for n in range(2000):
        await store.credentials.put(Credential("apns", f"39JSDKGJ38.de.cospace.app{n}", b"0" * 4000))


async def test_the_failure_goes_when_its_cause_goes_and_not_before(store: SqliteStore, clocks: Clocks) -> None:
    """Readiness must not flap: a transaction that changes nothing succeeds on a full disk too."""
    async with full_disk(store):
        with pytest.raises(StoreUnavailable):
            await store.queue.append([make_event(clocks, padding=LARGE)])
        for _ in range(3):
            await store.notice_changes()
            assert store.database.write_failure is not None
    await store.notice_changes()
    assert store.database.write_failure is None


async def test_while_nothing_can_be_settled_nothing_is_given_out(store: SqliteStore, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks)])
    async with full_disk(store):
        with pytest.raises(StoreUnavailable):
            await store.queue.append([make_event(clocks, padding=LARGE)])
        with pytest.raises(StoreUnavailable):
            await store.queue.claim(10)
        with pytest.raises(StoreUnavailable):
            await store.schedule.claim_due(EVERYTHING)
        with pytest.raises(StoreUnavailable):
            await store.schedule.expire(10)
    assert len(await claim(store, 10, EVERYTHING)) == 1


async def test_what_was_delivered_while_the_disk_was_full_is_settled_afterwards(
    store: SqliteStore, clocks: Clocks
) -> None:
    """However long it took: the lease stands still while nobody can settle, so nothing is delivered twice."""
    await store.queue.append([make_event(clocks) for _ in range(300)])
    items = await claim(store, 300, {})
    receipts = [done(item, device="fcm:" + "a" * 400) for item in items]
    async with full_disk(store):
        for _ in range(10):
            with pytest.raises(StoreUnavailable):
                await store.queue.settle(receipts)
            clocks.pass_time(LEASE_S)
            with pytest.raises(StoreUnavailable):
                await store.queue.claim(10)
            with pytest.raises(StoreUnavailable):
                await store.schedule.claim_due(EVERYTHING)
        assert (await store.queue.backlog()).events == 300
    assert await claim(store, 10, EVERYTHING) == []
    assert all(await store.queue.settle(receipts))
    assert await store.queue.backlog() == Backlog(0, 0)
    clocks.pass_time(LEASE_S + 1)
    assert await claim(store, 10, EVERYTHING) == []


async def test_a_lease_ends_as_usual_once_the_store_writes_again(store: SqliteStore, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks) for _ in range(2)])
    assert len(await claim(store, 10, {})) == 2
    async with full_disk(store):
        with pytest.raises(StoreUnavailable):
            await store.queue.append([make_event(clocks, padding=LARGE)])
        with pytest.raises(StoreUnavailable):
            await claim(store, 10, {})
    clocks.pass_time(LEASE_S + 1)
    assert await claim(store, 10, {}) == []
    clocks.pass_time(LEASE_S + 1)
    assert len(await claim(store, 10, {})) == 2


async def test_after_a_crash_on_a_full_disk_all_that_was_accepted_is_there(
    stores: SqliteStores, clocks: Clocks
) -> None:
    store = await stores.open()
    accepted = []
    async with full_disk(store):
        for _ in range(500):
            event = make_event(clocks, padding=500)
            try:
                await store.queue.append([event])
            except StoreUnavailable:
                break
            accepted.append(event.id)
        store = await stores.crash()
    assert ids(await claim(store, 1000, {})) == accepted


# -- locked ------------------------------------------------------------------------------------------------------------


async def test_while_another_process_holds_the_lock_nothing_is_accepted(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await impatient(store)
    await store.queue.append([make_event(clocks) for _ in range(2)])
    fresh, waiting = await claim(store, 2, {})
    await store.queue.settle([parked(waiting, clocks.now_ms)])
    async with locked(stores.path):
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await store.queue.append([make_event(clocks)])
        with pytest.raises(StoreUnavailable):
            await store.queue.settle([done(fresh)])
        with pytest.raises(StoreUnavailable):
            await store.queue.claim(10)
        with pytest.raises(StoreUnavailable):
            await store.schedule.claim_due(EVERYTHING)
        with pytest.raises(StoreUnavailable):
            await store.notice_changes()
        assert store.database.write_failure is not None
        assert (await store.log.record(fresh.event.id)) is not None
    await store.notice_changes()
    assert store.database.write_failure is None
    assert await store.queue.settle([done(fresh)]) == [True]
    assert ids(await claim(store, 10, EVERYTHING)) == [waiting.event.id]


async def test_what_could_not_be_marked_as_claimed_is_claimed_later(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await impatient(store)
    await store.queue.append([make_event(clocks) for _ in range(5)])
    (item,) = await claim(store, 1, {})
    await store.queue.settle([parked(item, clocks.now_ms)])
    async with locked(stores.path):
        with pytest.raises(StoreUnavailable):
            await store.schedule.claim_due(EVERYTHING)
        with pytest.raises(StoreUnavailable):
            await store.queue.claim(10)
    assert len(await claim(store, 10, EVERYTHING)) == 5


async def test_a_settlement_repeated_while_the_first_is_on_its_way_is_answered_as_that_is(
    stores: SqliteStores, clocks: Clocks
) -> None:
    """Its caller gave up waiting and asks again: it must not be told that something is on record which is not yet."""
    store = await stores.open()
    await impatient(store)
    await store.queue.append([make_event(clocks)])
    (item,) = await store.queue.claim(1)
    async with locked(stores.path):
        given_up = asyncio.ensure_future(store.queue.settle([done(item)]))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(StoreUnavailable):
            await store.queue.settle([done(item)])
    assert await store.queue.settle([done(item)]) == [True]
    record = await store.log.record(item.event.id)
    assert record is not None
    assert (record.state, len(record.attempts)) == (State.DONE, 1)


async def test_a_claim_that_fails_half_way_gives_back_what_it_had(
    stores: SqliteStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The urgent ones were in memory already, then the others could not be read."""
    server, command = await stores.open(), await stores.open(server=False)
    assert await server.queue.claim(10) == []
    urgent, other = [make_event(clocks, urgent=True) for _ in range(3)], make_event(clocks)
    await server.queue.append(urgent)
    await command.queue.append([other])
    await server.notice_changes()
    with monkeypatch.context() as broken:
        broken.setattr(claim_sql, "fresh", unreadable)
        with pytest.raises(StoreUnavailable):
            await server.queue.claim(10)
    assert sorted(ids(await server.queue.claim(10))) == sorted([*(event.id for event in urgent), other.id])


async def test_the_event_loop_never_waits_for_the_lock(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await store.database.write(lambda driver: driver.execute("PRAGMA busy_timeout=400").fetchone())
    async with locked(stores.path):
        appending = asyncio.ensure_future(store.queue.append([make_event(clocks)]))
        longest, before = 0.0, time.monotonic()
        while not appending.done():
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
        assert longest < 0.3
        with pytest.raises(StoreUnavailable):
            await appending


async def test_a_lock_that_is_given_back_in_time_is_waited_for(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    async with locked(stores.path):
        appending = asyncio.ensure_future(store.queue.append([make_event(clocks)]))
        await asyncio.sleep(0.1)
    await appending
    assert store.database.write_failure is None


# -- read-only and damaged ---------------------------------------------------------------------------------------------


async def test_a_store_that_becomes_read_only_refuses_and_recovers(store: SqliteStore, clocks: Clocks) -> None:
    event = make_event(clocks)
    await store.queue.append([event])
    (item,) = await claim(store, 10, {})
    make_read_only(store, 1)
    with pytest.raises(StoreUnavailable, match="not writable"):
        await store.queue.append([make_event(clocks)])
    with pytest.raises(StoreUnavailable):
        await store.queue.settle([done(item)])
    assert store.database.write_failure is not None
    make_read_only(store, 0)
    assert await store.queue.settle([done(item)]) == [True]
    assert store.database.write_failure is None


def make_read_only(store: SqliteStore, switch: int) -> None:
    """What a read-only file system does to the writer; it works for root too."""
    worker = store.database._writer
    assert isinstance(worker, ThreadWorker)
    assert isinstance(worker._jobs, Writes)
    raw(worker._jobs._connection).execute(f"PRAGMA query_only={switch}")


async def claim_everything(store: SqliteStore) -> None:
    while await claim(store, 100, {}):
        pass


async def damaged(stores: SqliteStores, clocks: Clocks) -> SqliteStore:
    """A store whose file is damaged, opened; nobody has noticed yet."""
    store = await stores.open()
    await store.queue.append([make_event(clocks, padding=200) for _ in range(500)])
    await stores.close()
    content = bytearray(stores.path.read_bytes())
    leaves = [start for start in range(0, len(content), 4096) if content[start] == 0x0D]
    for start in leaves[-20:-5]:
        content[start : start + 60] = b"\xff" * 60
    stores.path.write_bytes(content)
    return await stores.open()


async def test_a_damaged_file_is_a_failure_that_does_not_go_by_itself(stores: SqliteStores, clocks: Clocks) -> None:
    store = await damaged(stores, clocks)
    with pytest.raises(StoreUnavailable, match="damaged; restore it from a backup"):
        await claim_everything(store)
    assert store.database.write_failure is not None
    await store.notice_changes()
    assert store.database.write_failure is not None
    with pytest.raises(StoreUnavailable):
        await claim(store, 10, {})


async def test_a_store_known_to_be_damaged_acknowledges_nothing_and_still_settles(
    stores: SqliteStores, clocks: Clocks
) -> None:
    store = await damaged(stores, clocks)
    (held,) = await claim(store, 1, {})
    credential = Credential("apns", "x", b"secret", False, 0)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await claim_everything(store)
    for refused in (
        store.queue.append([make_event(clocks)]),
        store.registry.add(registration("a"), 10),
        store.registry.delete(OWNER, "apns", TOKEN),
        store.registry.restore("apns", TOKEN, 100),
        store.registry.release_quarantine("x", 100),
        store.registry.purge_quarantine("x"),
        store.access.create_key(Role.PRODUCER, "fax", None),
        store.access.create_session(OWNER, None),
        store.access.revoke_key("key_1"),
        store.access.revoke_session("ses_1"),
        store.credentials.put(credential),
        store.credentials.remove("apns", "x"),
        store.credentials.rewrap(),
    ):
        with pytest.raises(StoreUnavailable, match="damaged"):
            await refused
    assert await store.queue.settle([done(held)]) == [True]


# -- reading -----------------------------------------------------------------------------------------------------------


def unreadable(*arguments: object) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
    raise error


async def test_what_cannot_be_read_is_a_failure_until_something_can(store: SqliteStore, clocks: Clocks) -> None:
    with pytest.raises(StoreUnavailable, match="I/O error"):
        await store.database.read(unreadable)
    assert "I/O error" in (store.database.read_failure or "")
    assert [one.partition(":")[0] for one in store.failures()] == ["the store cannot read"]
    await store.log.record(make_event(clocks).id)
    assert (store.database.read_failure, store.failures()) == (None, [])


async def test_what_could_not_be_read_is_tried_again_without_being_asked(store: SqliteStore, clocks: Clocks) -> None:
    with pytest.raises(StoreUnavailable):
        await store.database.read(unreadable)
    assert store.database.read_failure is not None
    await store.notice_changes()
    assert store.database.read_failure is None


async def test_what_cannot_be_read_keeps_nothing_from_being_claimed(store: SqliteStore, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks)])
    with pytest.raises(StoreUnavailable):
        await store.database.read(unreadable)
    (item,) = await claim(store, 10, {})
    assert await store.queue.settle([done(item)]) == [True]


# -- one job's own error is nobody else's ------------------------------------------------------------------------------


async def test_a_job_that_fails_by_itself_fails_alone_and_is_no_storage_failure(
    store: SqliteStore, clocks: Clocks
) -> None:
    def broken(driver: sqlite3.Connection) -> None:
        raise ValueError("mine")

    def nonsense(driver: sqlite3.Connection) -> None:
        driver.execute("SELECT nonsense")

    event = make_event(clocks)
    answers = await asyncio.gather(
        store.database.write(broken),
        store.queue.append([event]),
        store.database.write(nonsense),
        store.registry.add(registration("a"), 10),
        return_exceptions=True,
    )
    assert isinstance(answers[0], ValueError)
    assert isinstance(answers[2], sqlite3.OperationalError)
    assert answers[1::2] == [None, []]
    assert store.database.write_failure is None
    record = await store.log.record(event.id)
    assert record is not None
    assert record.state is State.ACCEPTED
    assert OWNER in await store.registry.devices_of([OWNER])


async def test_a_closed_store_says_so(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await stores.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.queue.append([make_event(clocks)])
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.registry.devices_of([OWNER])
