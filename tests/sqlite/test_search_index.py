"""The index of the search as a file: lost, damaged, of another store, in parts, and what its feed keeps."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.contract import test_search as contract
from tests.contract.support import OWNER, done, keep, make_event, parked
from tests.support.clocks import Clocks
from tests.support.open_files import open_files
from tests.support.sqlite import SqliteStores

from tocsin.store.leases import leases_of
from tocsin.store.ports import SearchUnavailable, StoreUnavailable
from tocsin.store.records import Query, Settlement
from tocsin.store.search_shapes import Alike, alike, owner_key
from tocsin.store.sqlite import search_index, search_look
from tocsin.store.sqlite.leases import FileLease
from tocsin.store.sqlite.maintenance import backup, files, restore
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.search_feed import Recent
from tocsin.store.sqlite.search_index import SearchIndex, index_path
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

DELIVERED = Query(outcomes=frozenset({"delivered"}))


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
async def life() -> AsyncExitStack:
    async with AsyncExitStack() as stack:
        yield stack  # type: ignore[misc]


@pytest.fixture
def stores(tmp_path: Path, clocks: Clocks, life: AsyncExitStack) -> SqliteStores:
    return SqliteStores(tmp_path, clocks, life)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (search_index, search_look):
        monkeypatch.setattr(module, "PART_EVENTS", 16)


async def deliver(store: SqliteStore, clocks: Clocks, count: int) -> list[str]:
    events = [make_event(clocks) for _ in range(count)]
    items = await contract.appended(store, *events)
    await store.queue.settle([done(item) for item in items.values()])
    return [event.id for event in events]


async def found(store: SqliteStore, query: Query = DELIVERED) -> list[str]:
    return [id for id, *_ in await contract.found(store, query)][::-1]


@pytest.mark.usefixtures("small_parts")
class TestInManyParts:
    async def test_random_histories_are_found(self, stores: SqliteStores, clocks: Clocks) -> None:
        await contract.test_random_histories_are_found_as_the_records_say(await stores.open(), clocks)

    async def test_pages_follow_each_other(self, stores: SqliteStores, clocks: Clocks) -> None:
        await contract.test_pages_follow_each_other_and_have_everything_once(await stores.open(), clocks)

    async def test_the_time_may_be_over_at_any_part(self, stores: SqliteStores, clocks: Clocks) -> None:
        await contract.test_a_search_whose_time_is_over_says_so_and_can_be_gone_on_with(await stores.open(), clocks)

    async def test_a_part_is_dropped_with_the_last_of_its_events(self, stores: SqliteStores, clocks: Clocks) -> None:
        store = await stores.open()
        await deliver(store, clocks, 40)
        await contract.filled(store)
        clocks.pass_time(3 * 24 * 3600)
        later = await deliver(store, clocks, 40)
        await contract.filled(store)
        while await store.prune(keep(24 * 3600, 24 * 3600)):
            pass
        tables = await store.search._submit(lambda index: sorted(index._parts))
        assert tables == [2, 3, 4, 5], "events 32 to 80, of which 41 to 80 are left"
        assert await found(store) == later


async def test_the_index_outlives_an_orderly_end(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    ids = await deliver(store, clocks, 5)
    await contract.filled(store)
    ids += await deliver(store, clocks, 5)
    store = await stores.reopen()
    assert await found(store) == ids[:5], "nothing is made again: the rest is in the feed"
    await contract.filled(store)
    assert await found(store) == ids


async def test_an_index_that_was_lost_or_damaged_is_made_again(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    ids = await deliver(store, clocks, 5)
    await contract.filled(store)
    await stores.close()
    path = index_path(stores.path)
    for damage in (path.unlink, lambda: path.write_bytes(b"no database"), lambda: path.write_bytes(b"")):
        damage()
        store = await stores.open()
        for _ in range(3):
            try:
                await contract.filled(store)
                break
            except StoreUnavailable:
                continue  # found damaged: the next attempt makes it again
        assert await found(store) == ids
        await stores.close()


async def test_an_index_that_cannot_be_opened_is_closed_though_the_error_is_kept(stores: SqliteStores) -> None:
    await stores.open()
    index = index_path(stores.path)
    index.write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError) as kept:
        SearchIndex(stores.path, Recent())
    assert open_files(index) == []
    assert kept.value.__traceback__ is not None


async def test_an_index_that_cannot_be_written_stops_no_delivery_and_is_told_once(
    stores: SqliteStores, clocks: Clocks, capsys: pytest.CaptureFixture[str]
) -> None:
    store = await stores.open()
    index_path(stores.path).mkdir()
    ids = await deliver(store, clocks, 3)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="the index of the search: "):
            await store.search.fill(1)
    assert capsys.readouterr().out.count("the index of the search cannot be used") == 1
    assert store.failures() == []
    index_path(stores.path).rmdir()
    await contract.filled(store)
    assert await found(store) == ids


async def test_a_backup_that_was_put_back_gets_an_index_of_its_own(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    ids = await deliver(store, clocks, 5)
    await contract.filled(store)
    await stores.close()
    shutil.copy(stores.path, stores.path.with_name("backup"))
    store = await stores.open()
    await deliver(store, clocks, 5)
    await deliver(store, clocks, 5)
    await contract.filled(store)
    await stores.close()
    shutil.copy(stores.path.with_name("backup"), stores.path)
    store = await stores.open()
    await contract.filled(store)
    assert await found(store) == ids
    ids += await deliver(store, clocks, 2)
    await contract.filled(store)
    assert await found(store) == ids


async def test_a_restored_copy_of_another_store_does_not_take_over_the_index_that_was_there(
    tmp_path: Path, stores: SqliteStores, clocks: Clocks
) -> None:
    """How far the index is says nothing of whose it is: the other store may be further than this one was."""
    store = await stores.open()
    await deliver(store, clocks, 1)
    await contract.filled(store)
    await stores.close()
    path, stores.path = stores.path, tmp_path / "other.db"
    other = await stores.open()
    ids = await deliver(other, clocks, 2) + await deliver(other, clocks, 2)
    await stores.close()
    backup(stores.path, tmp_path / "copy.db")
    restore(path, tmp_path / "copy.db")
    stores.path = path
    store = await stores.open()
    await contract.filled(store)
    assert await found(store) == ids


async def test_the_index_lies_beside_the_file_that_a_link_leads_to(
    tmp_path: Path, stores: SqliteStores, clocks: Clocks
) -> None:
    """There a restore, and whoever lists the store's files, look for it."""
    (tmp_path / "data").mkdir()
    stores.path = tmp_path / "tocsin.db"
    stores.path.symlink_to(tmp_path / "data" / "real.db")
    store = await stores.open()
    await deliver(store, clocks, 1)
    await contract.filled(store)
    assert (tmp_path / "data" / "real.db-search") in files(stores.path)
    assert index_path(stores.path) == tmp_path / "data" / "real.db-search"


async def test_what_a_power_cut_took_from_the_index_is_still_in_the_feed(stores: SqliteStores, clocks: Clocks) -> None:
    """The feed is deleted up to what was synced, and no further."""
    store = await stores.open()
    ids = await deliver(store, clocks, 5)
    await contract.filled(store)
    await store.search.prune()
    synced = index_path(stores.path).read_bytes()
    ids += await deliver(store, clocks, 5)
    await contract.filled(store)
    await stores.crash()
    index_path(stores.path).write_bytes(synced)  # without its log
    await stores.close()
    store = await stores.open()
    state = await store.search.state()
    assert (state.rebuilding, state.waiting_events) == (False, 5)
    await contract.filled(store)
    assert await found(store) == ids


async def test_a_damaged_index_is_gone_before_its_log_is_and_both_before_it_is_made_again(
    stores: SqliteStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may leave the file as a checkpoint that failed has left it, and only its log makes it whole."""
    store = await stores.open()
    ids = await deliver(store, clocks, 5)
    await contract.filled(store)
    file, log, *_ = search_index.files_of(stores.path)
    there: list[tuple[bool, bool]] = []

    def sync_fails(path: Path) -> None:
        there.append((file.exists(), log.exists()))
        if len(there) in (1, 3):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(search_index, "make_name_durable", sync_fails)

    def corrupt(index: SearchIndex) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(StoreUnavailable):
        await store.search._submit(corrupt)
    assert there == [(False, True)], "the log stays until the file is gone for good"
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        await store.search.fill(1.0)
    assert there[1:] == [(False, True), (False, False)]
    await contract.filled(store)
    assert there[3:5] == [(False, False), (False, False)], "it is not made before the log is gone for good"
    assert await found(store) == ids


async def test_what_a_power_cut_left_of_a_deleted_index_is_deleted(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    ids = await deliver(store, clocks, 5)
    await contract.filled(store)
    file, log, *_ = search_index.files_of(stores.path)
    kept = log.read_bytes()
    await stores.close()
    file.unlink()
    log.write_bytes(kept)
    store = await stores.open()
    ids += await deliver(store, clocks, 5)
    await contract.filled(store)
    assert await found(store) == ids


async def test_nobody_but_its_user_may_read_the_index(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await deliver(store, clocks, 1)
    await contract.filled(store)
    files = [file for file in search_index.files_of(stores.path) if file.exists()]
    assert len(files) >= 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_the_index_holds_no_token(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    (item,) = (await contract.appended(store, make_event(clocks))).values()
    await store.queue.settle([done(item, device="apns:5ec7e7")])
    await contract.filled(store)
    content = b"".join(file.read_bytes() for file in search_index.files_of(stores.path) if file.exists())
    assert b"apns" in content
    assert b"5ec7e7" not in content


async def test_an_erased_user_has_no_row_in_the_index(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await deliver(store, clocks, 5)
    await contract.filled(store)
    await store.users.erase(OWNER)
    await contract.filled(store)
    count = "SELECT count(*) FROM seen_0"
    assert await store.search._submit(lambda index: index.driver.execute(count).fetchone()) == (0,)


async def test_the_feed_does_not_grow(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    for _ in range(20):
        await deliver(store, clocks, 3)
    await contract.filled(store)
    await store.search.prune()
    count = "SELECT count(*) FROM search_feed"
    assert await store.database.read(lambda driver: driver.execute(count).fetchone()) == (1,)


async def test_a_command_searches_beside_the_server_and_says_where_there_is_no_index(
    stores: SqliteStores, clocks: Clocks
) -> None:
    store = await stores.open()
    ids = await deliver(store, clocks, 5)
    command = await stores.open(server=False)
    with pytest.raises(SearchUnavailable, match="the server makes it"):
        await command.search.find(DELIVERED, 10)
    await contract.filled(store)
    assert await found(command) == ids
    await deliver(store, clocks, 1)
    assert (await command.search.state()).waiting_events == 1


async def test_a_store_whose_search_is_off_keeps_no_feed_and_says_so(
    stores: SqliteStores, clocks: Clocks, life: AsyncExitStack
) -> None:
    await deliver(await stores.open(), clocks, 5)
    await stores.close()
    options = SqliteOptions(max_events=10, max_bytes=1000, lease_s=30, keys=stores.keys, wall_clock=clocks.wall)
    store = await open_store(stores.path, options, server=True)
    life.push_async_callback(store.close)
    await store.start()
    assert not await store.search.fill(1)
    with pytest.raises(SearchUnavailable, match=r"store\.search"):
        await store.search.find(Query(owners=frozenset({OWNER})), 10)
    await deliver(store, clocks, 2)
    rows = "SELECT count(*) FROM search_feed"
    assert await store.database.read(lambda driver: driver.execute(rows).fetchone()) == (0,)
    await store.close()
    store = await stores.open()
    await contract.filled(store)
    assert len(await found(store)) == 7, "it is made again from the store"


async def test_what_was_settled_here_is_not_read_again(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    items = await contract.appended(store, *(make_event(clocks) for _ in range(3)))
    one, two, three = items.values()
    retried = parked(three, clocks.now_ms + 60_000)
    settlements = [done(one), contract.refused(two, "BadDeviceToken"), retried]
    seqs = [lease.seq for lease in leases_of(items.values(), FileLease)]
    known = alike_of(settlements[0])
    recent = Recent()
    recent.begin({known: -2})
    recent.settled(7, settlements, leases_of(items.values(), FileLease))()
    batch = recent.take(7)
    assert batch.values == [seqs[0], owner_key(one.event.owner), -2]
    assert [seen[0] for seen in batch.others] == [seqs[1]], "its shape has no number; something waits for the third"
    assert len(batch) == 2
    assert len(recent.take(7)) == 0


async def test_what_was_numbered_for_an_index_that_is_gone_is_not_taken(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    items = await contract.appended(store, make_event(clocks))
    settlements, leases = [done(item) for item in items.values()], leases_of(items.values(), FileLease)
    recent = Recent()
    recent.begin({alike_of(settlements[0]): -2})
    recent.settled(7, settlements, leases)()
    committing = recent.settled(8, settlements, leases)
    recent.begin({})
    committing()
    assert [len(recent.take(row)) for row in (7, 8)] == [0, 0]
    recent.settled(9, settlements, leases)()
    assert len(recent.take(9)) == 1


async def test_no_more_is_kept_than_there_is_room_for(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    items = await contract.appended(store, *(make_event(clocks) for _ in range(10)))
    settlements, leases = [done(item) for item in items.values()], leases_of(items.values(), FileLease)
    recent = Recent()
    for row in range(10_000):
        recent.settled(row, settlements, leases)()
    kept = [len(recent.take(row)) for row in range(10_000)]
    assert sum(kept) == 20_000
    recent.settled(10_000, settlements, leases)()
    assert len(recent.take(10_000)) == 10, "there is room again"


def alike_of(settlement: Settlement) -> Alike:
    return alike(settlement.item.event.message, settlement.attempts[0])
