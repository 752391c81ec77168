"""A store that cannot be used is refused in one sentence that names the file, the reason and the remedy."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import tempfile
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from tests.contract.support import LANE, OWNER, SAME_KEY, Clocks, SqliteStores

from tocsin.store import migrations, schema
from tocsin.store.opening import Store, StoreError, open_store
from tocsin.store.ports import Parked, State
from tocsin.store.sqlite.database import open_connection, raw

RELEASED = ["0001", "0002", "0003"]
"""The schemas that stores of released versions may have."""

OLD_EVENTS = """
    INSERT INTO event(
        seq, id, owner, message, urgent, accepted_ms, expires_ms, state, waiting, dead, size, attempts, body)
    VALUES (1, 'a', '{owner}', 'fax_new', 0, 1, 9999999999999, 2, 0, 0, 2, '[1,"apns:a","lane","delivered",200]', NULL),
           (2, 'b', '{owner}', 'fax_new', 0, 1, 9999999999999, 1, 1, 0, 2, NULL, '{{}}'),
           (3, 'c', '{owner}', 'fax_new', 0, 1, 9999999999999, 3, 0, 1, 2, '[1,"apns:a","lane","refused",400]', '{{}}'),
           (4, 'd', '{owner}', 'fax_new', 0, 1, 9999999999999, 0, 0, 0, 2, NULL, '{{}}');
    INSERT INTO parked(seq, lane, urgent, due_ms, expires_ms, tries, targets, claimed)
    VALUES (2, '{lane}', 0, 5, 9999999999999, 1, '["apns:a"]', 1);
    INSERT INTO device(owner, system, token, application_id, registered_us)
    VALUES ('{owner}', 'apns', 'a', '39JSDKGJ38.de.cospace.app', 7),
           ('{one}', 'apns', 'c', '39JSDKGJ38.de.cospace.app', 8), ('{one}', 'fcm', 'c', NULL, 9),
           ('{other}', 'apns', 'c', '39JSDKGJ38.de.cospace.app', 7);
"""


async def opened(path: Path, *, exclusive: bool = False) -> None:
    async with open_store(path, max_events=10, max_bytes=1000, lease_s=1, exclusive=exclusive) as store:
        await store.queue.start()


async def refusal(path: Path) -> str:
    with pytest.raises(StoreError) as refused:
        await opened(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "tocsin.db"


async def test_a_new_store_is_for_its_users_eyes_only(path: Path) -> None:
    await opened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["a b?c#d%20.db", "ü'\".db"])
async def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    await opened(tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.endswith("lock")) == [name]


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"Dear diary, " * 1000)
    assert "not a SQLite database" in await refusal(path)
    assert path.read_bytes().startswith(b"Dear diary")


async def test_another_programs_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE event(name TEXT)")
    other.close()
    assert "another program's" in await refusal(path)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    other.close()


async def test_a_directory_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    await refusal(path)


async def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await refusal(tmp_path / "file" / "tocsin.db")


async def test_a_truncated_file_is_refused(path: Path) -> None:
    await opened(path)
    content = path.read_bytes()
    for size in (50, 100, 4095, 4096, 5000, len(content) // 2):
        path.write_bytes(content[:size])
        await refusal(path)


async def test_a_newer_schema_is_refused_and_left_as_it_is(path: Path) -> None:
    await opened(path)
    with sqlite3.connect(path) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.close()
    message = await refusal(path)
    assert "9999" in message
    assert "upgrade tocsin" in message
    with sqlite3.connect(path) as newer:
        assert newer.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    newer.close()


async def test_a_store_that_another_process_has_locked_for_long_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("tocsin.store.opening.open_connection", lambda path: open_connection(path, busy_timeout_s=0.05))
    assert "locked by another process" in await refusal(path)
    other.close()


def _in_a_child_without_rights(directory: str, results: multiprocessing.SimpleQueue[str]) -> None:
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    import asyncio

    try:
        asyncio.run(opened(Path(directory) / "tocsin.db"))
    except StoreError as error:
        results.put(str(error))
    except BaseException as error:
        results.put(f"not a StoreError: {error!r}")
    else:
        results.put("opened")


@pytest.mark.parametrize("what", ["an empty directory", "a directory with a store", "a file"])
def test_what_may_not_be_written_is_refused(what: str) -> None:
    """In a child, for root may write everything."""
    import asyncio

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if what != "an empty directory":
            asyncio.run(opened(directory / "tocsin.db"))
            for file in directory.iterdir():
                file.chmod(0o444 if what == "a file" else 0o666)
        directory.chmod(0o777 if what == "a file" else 0o555)
        fork = multiprocessing.get_context("fork")
        results: multiprocessing.SimpleQueue[str] = fork.SimpleQueue()
        child = fork.Process(target=_in_a_child_without_rights, args=(name, results))
        child.start()
        child.join(30)
        message = results.get()
        directory.chmod(0o700)
    assert message.startswith(f"{name}/tocsin.db: ")
    assert "not writable" in message or "cannot be opened" in message


# -- migrations --------------------------------------------------------------------------------------------------------


def made_by(version: str, path: Path) -> None:
    """A store as that version has left it, with something in every state."""
    path.parent.mkdir()
    connection = open_connection(path)
    raw(connection).execute("BEGIN IMMEDIATE")
    migrations.migrate(connection, to=version)
    for statement in OLD_EVENTS.format(owner=OWNER, lane=LANE, one=SAME_KEY[0], other=SAME_KEY[1]).split(";"):
        raw(connection).execute(statement)
    raw(connection).execute("COMMIT")
    connection.close()
    connection.engine.dispose()


@pytest.mark.parametrize("version", RELEASED)
async def test_a_store_of_every_released_version_is_brought_up_to_date_with_all_it_holds(
    version: str, path: Path, clocks: Clocks
) -> None:
    made_by(version, path)
    async with open_store(path, max_events=10, max_bytes=1000, lease_s=1, exclusive=True) as store:
        await store.queue.start()
        assert store.queue.backlog().events == 2
        states = {id: (await store.queue.record(id)).state for id in "abcd"}  # type: ignore[union-attr,arg-type]
        assert states == {"a": State.DONE, "b": State.DELIVERING, "c": State.DEAD, "d": State.ACCEPTED}
        items = {item.event.id: item for item in await store.queue.claim(10, {LANE: 10})}
        assert set(items) == {"b", "d"}
        assert (await store.queue.record("b")).waiting == [Parked(LANE, 5, 1, ("apns:a",))]  # type: ignore[union-attr,arg-type]
        assert await store.dead_letters.replay(None, 1000) == 1
        devices = await store.registry.devices_of([OWNER, *SAME_KEY])
        registered = {owner: [(one.key, one.registered_us) for one in own] for owner, own in devices.items()}
        assert registered == {
            OWNER: [("apns:a", 7)],
            SAME_KEY[0]: [("apns:c", 8), ("fcm:c", 9)],
            SAME_KEY[1]: [("apns:c", 7)],
        }


def test_the_released_versions_are_all_but_the_newest() -> None:
    scripts = migrations._scripts(migrations._config())
    assert sorted(script.revision for script in scripts.walk_revisions()) == [*RELEASED, migrations.head()]


async def test_the_migrations_lead_to_the_schema_that_the_code_knows(path: Path) -> None:
    await opened(path)
    connection = open_connection(path)
    assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    connection.close()
    connection.engine.dispose()


def _open_at_the_same_time(path: str, start: Barrier, results: multiprocessing.SimpleQueue[str]) -> None:
    import asyncio

    start.wait()
    try:
        asyncio.run(opened(Path(path)))
        results.put("opened")
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.parametrize("version", [None, *RELEASED])
def test_processes_that_start_at_once_migrate_once(version: str | None, path: Path) -> None:
    if version is not None:
        made_by(version, path)
    fork = multiprocessing.get_context("fork")
    start, results = fork.Barrier(4), fork.SimpleQueue()
    children = [fork.Process(target=_open_at_the_same_time, args=(str(path), start, results)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [results.get() for _ in children] == ["opened"] * 4


async def test_no_schema_is_changed_under_a_running_server(
    stores: SqliteStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stores.open()
    monkeypatch.setattr("tocsin.store.opening.is_current", lambda connection: False)
    with pytest.raises(StoreError, match="stop that one first"):
        await stores.open(server=False)


async def test_opening_again_changes_nothing(stores: SqliteStores) -> None:
    store: Store = await stores.open()
    before = await store.database.read(lambda connection: raw(connection).execute("PRAGMA schema_version").fetchone())
    store = await stores.reopen()
    assert before == await store.database.read(
        lambda connection: raw(connection).execute("PRAGMA schema_version").fetchone()
    )
