"""`tocsin store` and `tocsin deadletter`, on a real file."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.line import make_event

from tocsin.settings import Settings
from tocsin.settings import Store as StoreSettings
from tocsin.store.maintenance import check
from tocsin.store.opening import open_store
from tocsin.store.records import Attempt, Result, Settlement

pytestmark = pytest.mark.slow


def _tocsin(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TOCSIN_STORE__PATH": str(directory / "tocsin.db"), "PYTHONPATH": "src"}
    return subprocess.run(
        [sys.executable, "-m", "tocsin", *arguments], capture_output=True, text=True, env=environment, check=False
    )


def _settings(path: Path) -> Settings:
    return Settings(store=StoreSettings(path=path))


async def _fail_one(path: Path) -> str:
    """An event whose only device was refused."""
    async with open_store(_settings(path), server=True) as store:
        await store.start()
        event = make_event()
        await store.queue.append([event])
        [item] = await store.queue.claim(10)
        lane, device = "apns:production:x", "apns:" + "0" * 64
        attempt = Attempt(event.accepted_ms, device, lane, Result.REFUSED, 400, "BadPriority")
        await store.queue.settle([Settlement(item, [attempt], [])])
        return event.id


def test_dead_letters_are_listed_replayed_and_discarded(tmp_path: Path) -> None:
    ids = [asyncio.run(_fail_one(tmp_path / "tocsin.db")) for _ in range(2)]
    listed = json.loads(_tocsin(tmp_path, "deadletter", "list", "--json").stdout)
    assert {letter["id"] for letter in listed} == set(ids)
    assert listed[0]["devices"][0]["reason"] == "BadPriority"
    assert "1 dead letters are delivered again" in _tocsin(tmp_path, "deadletter", "replay", ids[0]).stderr
    assert "1 dead letters are discarded" in _tocsin(tmp_path, "deadletter", "discard", "--all").stderr
    assert json.loads(_tocsin(tmp_path, "deadletter", "list", "--json").stdout) == []
    shown = json.loads(_tocsin(tmp_path, "event", "show", ids[0], "--json").stdout)
    assert shown["state"] == "delivering"


def test_dead_letters_are_listed_page_by_page(tmp_path: Path) -> None:
    ids = [asyncio.run(_fail_one(tmp_path / "tocsin.db")) for _ in range(3)]
    listed, arguments = [], ["--limit", "2"]
    for _ in range(2):
        page = _tocsin(tmp_path, "deadletter", "list", "--json", *arguments)
        listed += [letter["id"] for letter in json.loads(page.stdout)]
        arguments = shlex.split(page.stderr.partition("tocsin deadletter list ")[2])
    assert listed == ids[::-1]
    assert arguments == []


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 19, "9" * 40])
def test_a_page_that_begins_at_an_unknown_cursor_is_refused_with_the_option_named(tmp_path: Path, cursor: str) -> None:
    asyncio.run(_fail_one(tmp_path / "tocsin.db"))
    ended = _tocsin(tmp_path, "deadletter", "list", "--start", cursor)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"--start {cursor}: not valid: use the value that `tocsin " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_choices_of_dead_letters_are_refused_with_a_reason(tmp_path: Path) -> None:
    asyncio.run(_fail_one(tmp_path / "tocsin.db"))
    for arguments, status, reason in (
        (["replay"], 2, "name events by their id, or --all"),
        (["replay", "--all", "--lifetime", "never"], 2, "does not live for ever"),
        (["discard", "00000000-0000-4000-8000-000000000000"], 1, "none of these is a dead letter"),
    ):
        ended = _tocsin(tmp_path, "deadletter", *arguments)
        assert ended.returncode == status
        assert reason in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_backup_of_a_store_without_errors_is_without_errors(tmp_path: Path) -> None:
    asyncio.run(_fail_one(tmp_path / "tocsin.db"))
    assert _tocsin(tmp_path, "store", "check").returncode == 0
    copy = tmp_path / "restored" / "tocsin.db"
    copy.parent.mkdir()
    assert _tocsin(tmp_path, "store", "backup", str(copy)).returncode == 0
    # The master key is not in it: whoever restores elsewhere brings it.
    missing = _tocsin(copy.parent, "store", "check")
    assert (missing.returncode, "the master key" in missing.stdout) == (1, True)
    shutil.copy(tmp_path / "tocsin.db.key", copy.parent)
    assert _tocsin(copy.parent, "store", "check").returncode == 0
    assert len(json.loads(_tocsin(copy.parent, "deadletter", "list", "--json").stdout)) == 1
    again = _tocsin(tmp_path, "store", "backup", str(copy))
    assert again.returncode == 1
    assert "never overwrites" in again.stderr


def test_a_copy_is_restored_and_nothing_of_the_old_store_is_left(tmp_path: Path) -> None:
    path, copy = tmp_path / "tocsin.db", tmp_path / "copy.db"
    kept = asyncio.run(_fail_one(path))
    assert _tocsin(tmp_path, "store", "backup", str(copy)).returncode == 0
    asyncio.run(_fail_one(path))
    _leave_a_log(path)
    ended = _tocsin(tmp_path, "store", "restore", str(copy))
    assert (ended.returncode, ended.stderr) == (0, f"{path} is restored from {copy}\n")
    assert {file.name for file in tmp_path.iterdir()} == {
        "tocsin.db",
        "tocsin.db.key",
        "tocsin.db.lock",
        "tocsin.db.migrate-lock",
        "copy.db",
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert _tocsin(tmp_path, "store", "check").returncode == 0
    assert [letter["id"] for letter in json.loads(_tocsin(tmp_path, "deadletter", "list", "--json").stdout)] == [kept]


def _leave_a_log(path: Path) -> None:
    """Leaves a write-ahead log beside the store, as a server that is killed does."""
    child = "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM event'); c.commit()"
    subprocess.run([sys.executable, "-c", f"{child}; os._exit(0)", str(path)], check=True)
    assert path.with_name(path.name + "-wal").stat().st_size > 0


def test_a_copy_is_restored_where_there_is_no_store(tmp_path: Path) -> None:
    asyncio.run(_fail_one(tmp_path / "tocsin.db"))
    assert _tocsin(tmp_path, "store", "backup", str(tmp_path / "copy.db")).returncode == 0
    refused = _tocsin(tmp_path / "new", "store", "restore", str(tmp_path / "copy.db"))
    assert (refused.returncode, "the master key" in refused.stderr) == (1, True)
    (tmp_path / "new").mkdir(exist_ok=True)
    shutil.copy(tmp_path / "tocsin.db.key", tmp_path / "new")
    assert _tocsin(tmp_path / "new", "store", "restore", str(tmp_path / "copy.db")).returncode == 0
    assert check(_settings(tmp_path / "new" / "tocsin.db")) == []


def test_nothing_is_restored_while_a_server_runs(tmp_path: Path) -> None:
    path, copy = tmp_path / "tocsin.db", tmp_path / "copy.db"
    asyncio.run(_fail_one(path))
    assert _tocsin(tmp_path, "store", "backup", str(copy)).returncode == 0

    async def try_beside_a_server() -> subprocess.CompletedProcess[str]:
        async with open_store(_settings(path), server=True):
            return await asyncio.to_thread(_tocsin, tmp_path, "store", "restore", str(copy))

    ended = asyncio.run(try_beside_a_server())
    assert ended.returncode == 1
    assert "stop that one first" in ended.stderr


def test_a_damaged_or_unknown_file_is_not_restored(tmp_path: Path) -> None:
    path, copy = tmp_path / "tocsin.db", tmp_path / "copy.db"
    asyncio.run(_fail_one(path))
    before = path.read_bytes()
    for statement, reason in (
        ("UPDATE alembic_version SET version_num = '9999'", "does not know"),
        ("UPDATE event SET size = 1", "another size"),
        ("DROP TABLE parked", "not a store of tocsin"),
    ):
        copy.unlink(missing_ok=True)
        assert _tocsin(tmp_path, "store", "backup", str(copy)).returncode == 0
        with sqlite3.connect(copy) as connection:
            connection.execute(statement)
        connection.close()
        _refuses(tmp_path, copy, reason)
    copy.write_bytes(b"no database" * 1000)
    _refuses(tmp_path, copy, "not a SQLite database")
    copy.unlink()
    _refuses(tmp_path, copy, "there is no store")
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*partial*"))


def _refuses(directory: Path, copy: Path, reason: str) -> None:
    ended = _tocsin(directory, "store", "restore", str(copy))
    assert ended.returncode == 1
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_damaged_store_is_reported(tmp_path: Path) -> None:
    (tmp_path / "tocsin.db").write_bytes(b"this is no database at all, but it is long enough to be read as one" * 100)
    ended = _tocsin(tmp_path, "store", "check")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout.strip()
