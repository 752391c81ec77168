"""A store that cannot be used is refused in one sentence that names the file, the reason and the remedy."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.exc import DBAPIError
from tests.sqlite.opened import opened
from tests.support.mounts import can_mount, mounting
from tests.support.open_files import open_files
from tests.support.sqlite import SqliteStores

from tocsin.store.ports import StorageFailure, StoreError
from tocsin.store.sqlite import locks
from tocsin.store.sqlite.connection import open_connection
from tocsin.store.sqlite.maintenance import backup, check


async def refusal(path: Path, kind: type[StoreError] = StoreError) -> str:
    """What a command is told, and a server too, in the same words."""
    messages = []
    for server in (False, True):
        with pytest.raises(kind) as refused:
            async with opened(path, server=server):
                pass
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert str(path) in messages[0]
    assert "\n" not in messages[0]
    return messages[0]


async def open_once(path: Path) -> None:
    async with opened(path):
        pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "tocsin.db"


async def test_a_new_store_is_for_its_users_eyes_only(path: Path) -> None:
    await open_once(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o600, 0o640])
async def test_nobody_who_may_not_use_the_store_can_lock_it(path: Path, mode: int) -> None:
    await open_once(path)
    path.chmod(mode)
    locks_beside = sorted(path.parent.glob("*lock"))
    for lock in locks_beside:  # as earlier versions made them
        lock.chmod(0o644)
    async with opened(path, server=True):
        assert {stat.S_IMODE(lock.stat().st_mode) for lock in sorted(path.parent.glob("*lock"))} == {mode}
    assert locks_beside


async def test_the_lock_files_of_a_new_store_are_for_its_users_eyes_only(path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(path, server=True):
            modes = {lock.name: stat.S_IMODE(lock.stat().st_mode) for lock in path.parent.glob("*lock")}
    finally:
        os.umask(before)
    assert modes == {"tocsin.db.lock": 0o600, "tocsin.db.migrate-lock": 0o600}


@pytest.mark.parametrize("name", ["a b?c#d%20.db", "ü'\".db"])
async def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    await open_once(tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.endswith("lock")) == [name]


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"Dear diary, " * 1000)
    assert "not a SQLite database" in await refusal(path)
    assert path.read_bytes().startswith(b"Dear diary")


def test_a_connection_that_fails_while_it_is_opened_is_closed_though_the_error_is_kept(path: Path) -> None:
    """Left open it had the log open, too: the next one that was closed deleted the log under the server's own, and all
    that was accepted from then on was lost at a kill. Starts on a failing disk did that, about every other time."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(DBAPIError) as kept:
        open_connection(path)
    assert open_files(path) == []
    assert kept.value.__traceback__ is not None


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
    await open_once(path)
    content = path.read_bytes()
    for size in (50, 100, 4095, 4096, 5000, len(content) // 2):
        path.write_bytes(content[:size])
        await refusal(path)


async def test_a_newer_schema_is_refused_and_left_as_it_is(path: Path) -> None:
    await open_once(path)
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
    monkeypatch.setattr(
        "tocsin.store.sqlite.opening.open_connection", lambda path: open_connection(path, busy_timeout_s=0.05)
    )
    assert "locked by another process" in await refusal(path, StorageFailure)
    other.close()


def _in_a_child_without_rights(directory: str, results: multiprocessing.SimpleQueue[str]) -> None:
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        asyncio.run(open_once(Path(directory) / "tocsin.db"))
    except StoreError as error:
        results.put(str(error))
    except BaseException as error:
        results.put(f"not a StoreError: {error!r}")
    else:
        results.put("opened")


@pytest.mark.parametrize("what", ["an empty directory", "a directory with a store", "a file"])
def test_what_may_not_be_written_is_refused(what: str) -> None:
    """In a child, for root may write everything."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if what != "an empty directory":
            asyncio.run(open_once(directory / "tocsin.db"))
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


async def test_no_schema_is_changed_under_a_running_server(
    stores: SqliteStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stores.open()
    monkeypatch.setattr("tocsin.store.sqlite.opening.is_current", lambda connection: False)
    with pytest.raises(StoreError, match="stop that one first"):
        await stores.open(server=False)


async def test_opening_again_changes_nothing(stores: SqliteStores) -> None:
    store = await stores.open()
    before = await store.database.read(lambda driver: driver.execute("PRAGMA schema_version").fetchone())
    store = await stores.reopen()
    assert before == await store.database.read(lambda driver: driver.execute("PRAGMA schema_version").fetchone())


# -- one server ------------------------------------------------------------------------------------------------------


def linked(path: Path, how: str) -> Path:
    """Another name of the store's file."""
    other = path.parent.parent / "other" / "name.db"
    other.parent.mkdir()
    if how == "a symbolic link":
        other.symlink_to(path)
    elif how == "a link to a link":
        (path.parent.parent / "link").symlink_to(path.parent)
        other.symlink_to(Path("..") / "link" / path.name)
    else:
        other.hardlink_to(path)
    return other


@pytest.mark.parametrize("how", ["a symbolic link", "a link to a link", "a hard link"])
async def test_two_servers_never_use_one_file_whatever_name_each_has_for_it(path: Path, how: str) -> None:
    """Each would deliver everything."""
    await open_once(path)
    other = linked(path, how)
    for first, second in ((path, other), (other, path)):
        async with opened(first, server=True):
            with pytest.raises(StoreError, match="another tocsin server is using it; stop that one first"):
                async with opened(second, server=True):
                    pass
    async with opened(path, server=True):
        pass


async def test_a_command_works_through_a_symbolic_link_while_a_server_runs(path: Path) -> None:
    await open_once(path)
    other = linked(path, "a symbolic link")
    async with opened(path, server=True):
        await open_once(other)
        assert check(other) == []
        backup(other, other.parent / "backup.db")


async def test_a_command_is_refused_where_it_would_not_find_the_log_of_the_server(path: Path) -> None:
    """SQLite looks for the log under the name that it was given: a backup would lack what was committed last."""
    await open_once(path)
    other = linked(path, "a hard link")
    async with opened(path, server=True):
        with pytest.raises(StoreError, match="by another name"):
            await open_once(other)
        with pytest.raises(StoreError, match="by another name"):
            backup(other, other.parent / "backup.db")
        (finding,) = check(other)
        assert "by another name" in finding
        await open_once(path)
    await open_once(other)


SERVE: Final = """
import asyncio, sys
from pathlib import Path
from tests.sqlite.opened import opened

async def serve():
    async with opened(Path(sys.argv[1]), server=True):
        print("serving", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(serve())
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this system does not let its user mount anything")
async def test_two_servers_never_use_one_file_through_a_mount_of_it(path: Path, tmp_path: Path) -> None:
    await open_once(path)
    (tmp_path / "mounted.db").touch()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    async with opened(path, server=True):
        told = subprocess.run(
            mounting(
                f"mount --bind {path} {tmp_path}/mounted.db", sys.executable, "-c", SERVE, tmp_path / "mounted.db"
            ),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert "serving" not in told.stdout
    assert "another tocsin server is using it" in told.stderr


async def test_who_waits_for_the_lock_of_a_migration_waits_by_the_event_loops_clock(path: Path) -> None:
    """A loop whose time goes as a test or a simulation likes waits as long as that says, and no thread sleeps."""
    await open_once(path)
    loop = asyncio.get_running_loop()
    with locks.migrating(path):
        opening = asyncio.ensure_future(open_once(path))
        await asyncio.sleep(0.1)
        assert not opening.done()
        loop.time = lambda: time.monotonic() + 60  # type: ignore[method-assign]
        try:
            with pytest.raises(StoreError, match="another process is migrating it"):
                await asyncio.wait_for(opening, 50)
        finally:
            del loop.time  # type: ignore[method-assign]
    await open_once(path)
