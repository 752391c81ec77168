"""A migration sorts every device there is. It takes room on the disk for that, beside the store, and not memory."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sqlite.old_stores import made_by
from tests.sqlite.opened import opened

from tocsin.store.ports import StoreError
from tocsin.store.sqlite import connection as connections
from tocsin.store.sqlite.migrations import head
from tocsin.store.sqlite.spilling import spills_beside

ROOT = Path(__file__).parents[2]
DEVICES = 150_000
MOST_GROWN_KIB = 16 * 1024
"""Sorted, and written anew, in memory, these devices take 33 MiB; in files 7 MiB."""
ROOM_BYTES = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def many_devices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("old") / "tocsin.db"
    made_by("0003", path)
    connection = connections.open_connection(path)
    connections.raw(connection).execute(
        "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < ?) "
        "INSERT INTO device(owner, system, token, registered_us) "
        "SELECT 'owner ' || n / 3, 'apns', hex(randomblob(32)), n FROM counted",
        (DEVICES,),
    )
    connections.close(connection)
    return path


def _run(what: str, path: Path, **environment: str) -> str:
    """This file in a process of its own: its memory is measured, or its files are limited."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.sqlite.test_migration_memory", what, str(path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]  # before it, a master key is told of


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from Linux's /proc")
def test_a_migration_does_not_hold_all_devices_in_memory(many_devices: Path, tmp_path: Path) -> None:
    path = tmp_path / "tocsin.db"
    shutil.copy(many_devices, path)
    assert int(_run("measure", path)) < MOST_GROWN_KIB


@pytest.mark.slow
def test_a_migration_that_finds_no_room_to_sort_changes_nothing_and_says_so(many_devices: Path, tmp_path: Path) -> None:
    path = tmp_path / "tocsin.db"
    shutil.copy(many_devices, path)
    before = _schema_and_devices(path)
    assert _run("without room", path).startswith(f"StorageFailure: {path}: the disk reports an I/O error; see ")
    assert _schema_and_devices(path) == before == ("0003", before[1])
    _run("measure", path)
    assert _schema_and_devices(path) == (head(), before[1])


def _schema_and_devices(path: Path) -> tuple[str, int]:
    connection = connections.open_connection(path)
    driver = connections.raw(connection)
    (version,) = driver.execute("SELECT version_num FROM alembic_version").fetchone()
    (devices,) = driver.execute("SELECT count(*) FROM device").fetchone()
    connections.close(connection)
    return version, devices


def test_what_does_not_fit_into_memory_goes_to_the_directory_of_the_store(tmp_path: Path) -> None:
    """Elsewhere there may be no room: in a container all else is read-only, and /tmp is memory."""
    path = tmp_path / "a'b ü" / "tocsin.db"
    path.parent.mkdir()
    connection = connections.open_connection(path)
    driver = connections.raw(connection)
    with spills_beside(driver, path):
        assert driver.execute("PRAGMA temp_store_directory").fetchone() == (str(path.parent),)
        assert driver.execute("PRAGMA temp_store").fetchone() == (1,)
    assert driver.execute("PRAGMA temp_store_directory").fetchone() is None
    assert driver.execute("PRAGMA temp_store").fetchone() == (2,)
    connections.close(connection)


def test_where_sqlite_does_not_take_the_directory_it_chooses_the_place_itself(tmp_path: Path) -> None:
    connection = connections.open_connection(tmp_path / "tocsin.db")
    driver = connections.raw(connection)
    with spills_beside(driver, tmp_path / "not there" / "tocsin.db"):
        assert driver.execute("PRAGMA temp_store_directory").fetchone() is None
        assert driver.execute("PRAGMA temp_store").fetchone() == (1,)
    connections.close(connection)


# -- in a process of its own -------------------------------------------------------------------------------------------


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


async def _open(path: Path) -> None:
    async with opened(path, server=True):
        pass


def _measure(path: Path) -> None:
    """How much more memory it took than the same for a store with a few devices."""
    small = path.with_name("small.db")
    made_by("0003", small)
    asyncio.run(_open(small))
    before = _peak_kib()
    asyncio.run(_open(path))
    print(_peak_kib() - before)


def _without_room(path: Path) -> None:
    """No file may become larger than this, which what is sorted would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, resource.RLIM_INFINITY))
    try:
        asyncio.run(_open(path))
    except StoreError as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    {"measure": _measure, "without room": _without_room}[sys.argv[1]](Path(sys.argv[2]))
