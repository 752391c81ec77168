"""What the files of a store show of contents: nothing in clear, and after a while nothing that any key opens."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from tests.contract.support import EVERYTHING, OWNER, done, keep, make_event, parked
from tests.sqlite import old_stores as old
from tests.sqlite.opened import SMALL, opened
from tests.support.clocks import Clocks
from tests.support.sqlite import SqliteStores

from tocsin.domain.events import Event, EventId
from tocsin.store.content_keys import FORGOTTEN_WITHIN_MS, HOUR_MS
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Result
from tocsin.store.sqlite import retiring, settle_sql
from tocsin.store.sqlite.maintenance import check
from tocsin.store.sqlite.store import SqliteStore

FOR_LONG = keep(30 * 24 * 3600.0, 30 * 24 * 3600.0)
TEXT = b"Treffen um 17:45 am Hintereingang"


def chat(clocks: Clocks, id: str, text: bytes = TEXT) -> Event:
    body = b'{"owner":"%s","message":"fax_new","text":"%s"}' % (OWNER.encode(), text)
    return Event(EventId(id), OWNER, "fax_new", clocks.now_ms, clocks.now_ms + 10**9, body)


def ask(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def in_files(path: Path, wanted: bytes) -> list[str]:
    """The files of the store in which these bytes are found."""
    return sorted(file.name for file in path.parent.glob(f"{path.name}*") if wanted in file.read_bytes())


async def pass_hours(store: SqliteStore, clocks: Clocks) -> None:
    clocks.pass_time(FORGOTTEN_WITHIN_MS / 1000)
    while await store.prune(FOR_LONG):
        pass


async def test_no_content_and_no_digest_of_one_is_in_clear_in_any_file(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    events = [chat(clocks, f"{n}") for n in range(5)]
    await store.queue.append(events)
    await store.queue.append(events[:1])
    items = await store.queue.claim(3)
    await store.queue.settle([parked(items[0], clocks.now_ms), done(items[1], Result.REFUSED), done(items[2])])
    await store.schedule.claim_due(EVERYTHING)
    unkeyed = blake2b(events[0].body, digest_size=16)
    for wanted in (TEXT, TEXT.hex().upper().encode(), unkeyed.digest(), unkeyed.hexdigest().encode()):
        assert in_files(stores.path, wanted) == []
    assert ask(stores.path, "SELECT count(*) FROM event WHERE body IS NOT NULL AND content_key_id IS NULL") == [(0,)]


async def test_a_settled_content_is_overwritten_in_the_file(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await store.queue.append([chat(clocks, "short"), chat(clocks, "long", TEXT * 1000)])
    encrypted = [body for (body,) in ask(stores.path, "SELECT body FROM event")]
    await store.database.write_alone(retiring.empty_log)
    assert [in_files(stores.path, body[-40:]) for body in encrypted] == [["tocsin.db"]] * 2
    await store.queue.settle([done(item) for item in await store.queue.claim(10)])
    await store.database.write_alone(retiring.empty_log)
    assert [in_files(stores.path, body[-40:]) for body in encrypted] == [[], []]


async def test_the_key_of_an_hour_is_in_no_file_four_hours_later(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await store.queue.append([chat(clocks, "settled"), chat(clocks, "dead")])
    settled, dead = await store.queue.claim(2)
    await store.queue.settle([done(settled), done(dead, Result.REFUSED)])
    [(id, record)] = ask(stores.path, "SELECT id, record FROM content_key")
    assert in_files(stores.path, record)
    clocks.pass_time(HOUR_MS / 1000)
    await store.prune(FOR_LONG)
    assert in_files(stores.path, record), "an hour's key lasts longer than the hour"
    await pass_hours(store, clocks)
    assert in_files(stores.path, record) == []
    assert ask(stores.path, f"SELECT count(*) FROM content_key WHERE id = {id}") == [(0,)]
    assert check(stores.path) == []


async def test_where_nothing_is_old_no_key_is_closed(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await store.queue.append([chat(clocks, "a")])
    await store.prune(FOR_LONG)
    assert ask(stores.path, "SELECT closed FROM content_key") == [(0,)]


async def test_a_kill_at_any_step_of_carrying_forward_loses_nothing(
    stores: SqliteStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retiring, "_STEP_ROWS", 2)
    store = await stores.open()
    events = [chat(clocks, f"{n}") for n in range(9)]
    await store.queue.append(events)
    items = await store.queue.claim(6)
    await store.queue.settle([parked(item, clocks.now_ms) for item in items[:3]])
    await store.queue.settle([done(item, Result.REFUSED) for item in items[3:]])
    clocks.pass_time(FORGOTTEN_WITHIN_MS / 1000)
    for steps in range(8):
        store = await stores.crash()
        left = iter(range(steps))
        await store._retiring.work(lambda left=left: next(left, None) is None)  # type: ignore[misc]
        await store.queue.append([chat(clocks, f"later {steps}")])
        assert check(stores.path) == []
    store = await stores.crash()
    await pass_hours(store, clocks)
    for event in events:
        record = await store.log.record(event.id)
        assert record is not None
        assert record.event.body == event.body
    assert check(stores.path) == []


async def test_an_append_never_uses_a_key_that_is_about_to_be_dropped(stores: SqliteStores, clocks: Clocks) -> None:
    store, command = await stores.open(), await stores.open(server=False)
    await command.queue.append([chat(clocks, "a")])
    clocks.pass_time(FORGOTTEN_WITHIN_MS / 1000)
    await store._retiring._close()
    clocks.set_wall_clock(by_s=-FORGOTTEN_WITHIN_MS / 1000)  # as the command's clock says
    await command.queue.append([chat(clocks, "b")])
    used = ask(stores.path, "SELECT closed FROM event JOIN content_key ON content_key.id = content_key_id ORDER BY seq")
    assert used == [(1,), (0,)]


async def test_a_content_that_was_moved_to_another_event_is_not_sent_and_the_file_is_damaged(
    stores: SqliteStores, clocks: Clocks
) -> None:
    store = await stores.open()
    await store.queue.append([chat(clocks, "a"), chat(clocks, "b")])
    with closing(sqlite3.connect(stores.path)) as other, other:
        other.execute("UPDATE event SET body = (SELECT body FROM event WHERE id = 'b') WHERE id = 'a'")
    store = await stores.crash()
    with pytest.raises(StoreUnavailable, match="the content of event a cannot be decrypted"):
        await store.queue.claim(10)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.queue.append([chat(clocks, "c")])


async def test_an_append_that_is_rolled_back_leaves_no_key_that_others_would_need(
    stores: SqliteStores, clocks: Clocks
) -> None:
    store = await stores.open()
    broken = chat(clocks, "a")
    with pytest.raises(OverflowError):
        await store.queue.append([Event(broken.id, OWNER, "fax_new", 2**70, 2**70, broken.body)])
    await store.queue.append([chat(clocks, "b")])
    store = await stores.crash()
    assert [item.event.body for item in await store.queue.claim(10)] == [chat(clocks, "b").body]
    await store.queue.append([chat(clocks, "b")])
    assert check(stores.path) == []


async def test_after_a_rekey_beside_a_server_the_next_hours_key_is_under_the_new_master_key(
    stores: SqliteStores, clocks: Clocks
) -> None:
    server = await stores.open()
    await server.queue.append([chat(clocks, "a")])
    command = await stores.open(server=False)
    new = stores.keys.add(os.urandom)
    assert await command.credentials.rewrap() == 2
    clocks.pass_time(HOUR_MS / 1000)
    await server.queue.append([chat(clocks, "b")])
    assert ask(stores.path, "SELECT DISTINCT key_id FROM content_key UNION SELECT key_id FROM kept_key") == [(new.id,)]


# -- what older versions have left -------------------------------------------------------------------------------------

OLD_TEXT = "Grüße 日本".encode()


@pytest.mark.parametrize("version", old.EARLIER)
async def test_what_an_older_version_has_left_in_clear_is_encrypted_or_overwritten(
    version: str, tmp_path: Path
) -> None:
    path = tmp_path / "store" / "tocsin.db"
    old.made_by(version, path)
    with closing(sqlite3.connect(path)) as other, other:
        # As a version without `secure_delete` leaves it.
        other.execute("PRAGMA secure_delete = OFF")
        other.execute("UPDATE event SET body = NULL, state = 2 WHERE id = 'fresh'")
        other.execute("CREATE TABLE filling AS SELECT body FROM event, (VALUES (1), (2), (3), (4), (5), (6), (7), (8))")
        other.execute("DROP TABLE filling")
    assert in_files(path, OLD_TEXT)
    told: list[str] = []
    options = type(SMALL)(max_events=100, max_bytes=10**6, lease_s=30, say=told.append)
    async with opened(path, options, server=True) as store:
        digests = [old.old_digest(event.body).encode() for event in old.EVENTS]
        assert [in_files(path, wanted) for wanted in (OLD_TEXT, *digests)] == [[]] * (1 + len(digests))
        assert any("messages in the store were encrypted" in sentence for sentence in told)
        for event in (event for event in old.EVENTS if not event.forgotten and event.id != "fresh"):
            record = await store.log.record(EventId(event.id))
            assert record is not None
            assert record.event.body == event.body.encode()
    assert check(path) == []


async def test_encrypting_what_an_older_version_has_left_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tocsin.store.sqlite import encrypting

    path = tmp_path / "store" / "tocsin.db"
    old.made_by("0007", path)
    monkeypatch.setattr(encrypting, "_STEP_ROWS", 2)
    step, steps = encrypting._step, iter(range(2))

    def fails(*arguments: Any) -> int:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(encrypting, "_step", fails)
        with pytest.raises(KeyboardInterrupt):
            async with opened(path, server=True):
                pass
    assert ask(path, "SELECT number FROM housekeeping WHERE name = 'in_clear'") == [(4,)]
    async with opened(path, server=True) as store:
        assert in_files(path, OLD_TEXT) == []
        record = await store.log.record(EventId("waits"))
        assert record is not None
        assert record.event.body == old.BODY.encode()
    assert ask(path, "SELECT count(*) FROM housekeeping WHERE name = 'in_clear'") == [(0,)]


async def test_a_command_reads_and_repeats_what_no_server_has_encrypted_yet(tmp_path: Path) -> None:
    path = tmp_path / "store" / "tocsin.db"
    old.made_by("0007", path)
    async with opened(path) as store:
        chosen = next(event for event in old.EVENTS if event.id == "done, chosen")
        await store.queue.append([Event(EventId(chosen.id), OWNER, "fax_new", 1, old.FAR_MS, chosen.body.encode())])
        record = await store.log.record(EventId("waits"))
        assert record is not None
        assert record.event.body == old.BODY.encode()


async def test_contents_are_the_same_length_as_before_to_whoever_counts_them(
    stores: SqliteStores, clocks: Clocks
) -> None:
    store = await stores.open()
    event = make_event(clocks, padding=100)
    await store.queue.append([event])
    assert ask(stores.path, "SELECT size FROM event") == [(len(event.body),)]
    assert (await store.queue.backlog()).size_bytes == len(event.body)


async def test_settling_looks_for_erased_events_only_where_there_are_some(
    stores: SqliteStores, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    seqs = settle_sql._seqs

    def look(driver: sqlite3.Connection, which: str, wanted: list[int]) -> set[int]:
        looked.append(which)
        return seqs(driver, which, wanted)

    monkeypatch.setattr(settle_sql, "_seqs", look)
    store = await stores.open()
    await store.queue.append([chat(clocks, f"{n}") for n in range(300)])
    await store.queue.settle([done(item) for item in await store.queue.claim(200)])
    assert settle_sql._EXISTING not in looked
    items = await store.queue.claim(100)
    await store.users.erase(OWNER)
    await store.queue.settle([done(item) for item in items])
    assert settle_sql._EXISTING in looked
