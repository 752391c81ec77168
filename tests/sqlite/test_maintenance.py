"""`check` finds what is wrong; `backup` copies a running store as it is at one instant; `restore` replaces
all or nothing."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace
from tests.contract.support import EVERYTHING, OWNER, attempt, claim, done, ids, make_event, parked, register
from tests.sqlite.opened import opened
from tests.support.clocks import Clocks
from tests.support.mounts import can_mount, mounting
from tests.support.sqlite import SqliteStores

from tocsin.store.master_keys import beside
from tocsin.store.ports import StoreError
from tocsin.store.records import Result, Settlement
from tocsin.store.sqlite import maintenance
from tocsin.store.sqlite.maintenance import backup, check, restore
from tocsin.store.sqlite.store import SqliteStore


async def busy(store: SqliteStore, clocks: Clocks) -> None:
    """Something in every state."""
    await store.queue.append([make_event(clocks, urgent=n % 2 == 0) for n in range(40)])
    items = await claim(store, 30, {})
    await store.queue.settle([done(item) for item in items[:10]])
    await store.queue.settle([parked(item, clocks.now_ms) for item in items[10:20]])
    await store.queue.settle([Settlement(item, [attempt("apns:a", Result.REFUSED)], []) for item in items[20:25]])
    await claim(store, 5, EVERYTHING)
    await store.log.replay([items[20].event.id], 60_000)
    await store.log.discard([items[21].event.id])
    await register(store, "a")


def break_it(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


async def test_a_store_at_work_is_in_order(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    assert check(stores.path) == []
    await busy(store, clocks)
    assert check(stores.path) == []
    await stores.crash()
    assert check(stores.path) == []


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE event SET waiting = waiting + 1 WHERE seq = 1", "counts other deliveries as waiting"),
        ("DELETE FROM parked WHERE id = (SELECT min(id) FROM parked)", "counts other deliveries as waiting"),
        ("DELETE FROM event WHERE seq = (SELECT min(seq) FROM parked)", "has no event"),
        ("UPDATE event SET state = 2 WHERE waiting > 0", "not in the state that says so"),
        ("UPDATE event SET state = 7 WHERE seq = 1", "a state that does not exist"),
        ("UPDATE event SET body = NULL WHERE state = 0", "its content is gone"),
        ("UPDATE event SET size = 1 WHERE state = 0", "another size"),
        ("UPDATE event SET content_key_id = 7 WHERE state = 0", "whose key is gone"),
        ("UPDATE event SET attempts = '[' WHERE seq = 1", "receipts that cannot be read"),
        ("UPDATE parked SET targets = 'apns:a'", "targets that cannot be read"),
        ("UPDATE parked SET expires_ms = 1", "another lifetime or urgency"),
        ("UPDATE alembic_version SET version_num = '9999'", "the schema is 9999"),
        ("DROP TABLE parked", "not a store of tocsin"),
    ],
)
async def test_what_does_not_fit_together_is_found(
    stores: SqliteStores, clocks: Clocks, statement: str, finding: str
) -> None:
    await busy(await stores.open(), clocks)
    await stores.close()
    break_it(stores.path, statement)
    findings = check(stores.path)
    assert findings
    assert any(finding in one for one in findings)


async def test_many_findings_of_a_kind_are_cut_short(stores: SqliteStores, clocks: Clocks) -> None:
    store = await stores.open()
    await store.queue.append([make_event(clocks) for _ in range(100)])
    await stores.close()
    break_it(stores.path, "UPDATE event SET size = 1")
    findings = check(stores.path)
    assert len(findings) == 21
    assert findings[-1].startswith("and more of this kind")


async def test_a_damaged_file_is_found_and_no_traceback(stores: SqliteStores, clocks: Clocks) -> None:
    await busy(await stores.open(), clocks)
    await stores.close()
    content = bytearray(stores.path.read_bytes())
    for start in range(4096, len(content), 2 * 4096):
        content[start : start + 50] = b"\xff" * 50
    stores.path.write_bytes(content)
    assert check(stores.path)
    stores.path.write_bytes(b"no database" * 1000)
    (finding,) = check(stores.path)
    assert "not a SQLite database" in finding


def test_where_there_is_no_store_it_says_so(tmp_path: Path) -> None:
    (finding,) = check(tmp_path / "none.db")
    assert finding.endswith("there is no store")
    assert list(tmp_path.iterdir()) == []


# -- backup ------------------------------------------------------------------------------------------------------------


async def test_a_backup_restored_holds_all_that_was_accepted_before_it(
    stores: SqliteStores, clocks: Clocks, tmp_path: Path
) -> None:
    store = await stores.open()
    await busy(store, clocks)
    expected, devices = await store.queue.backlog(), await store.registry.devices_of([OWNER])
    backup(stores.path, tmp_path / "backup.db")
    await store.queue.append([make_event(clocks)])
    assert check(tmp_path / "backup.db") == []
    stores.path = tmp_path / "backup.db"
    store = await stores.open()
    assert await store.queue.backlog() == expected
    assert len(await claim(store, 1000, EVERYTHING)) == expected.events
    assert await store.registry.devices_of([OWNER]) == devices


async def test_a_backup_is_taken_while_the_server_writes_and_is_of_one_instant(
    stores: SqliteStores, clocks: Clocks, tmp_path: Path
) -> None:
    store = await stores.open()
    accepted: list[str] = []
    stop = asyncio.Event()

    async def produce() -> None:
        while not stop.is_set():
            event = make_event(clocks, padding=300)
            await store.queue.append([event])
            accepted.append(event.id)

    producing = asyncio.ensure_future(produce())
    copies = []
    for n in range(5):
        await asyncio.sleep(0.05)
        before = len(accepted)
        await asyncio.to_thread(backup, stores.path, tmp_path / f"{n}.db")
        copies.append((tmp_path / f"{n}.db", before))
    stop.set()
    await producing
    for path, before in copies:
        assert check(path) == []
        stores.path = path
        held = ids(await (await stores.open()).queue.claim(100_000))
        assert held == accepted[: len(held)]
        assert len(held) >= before


async def test_a_backup_is_one_file_for_its_users_eyes_only(
    stores: SqliteStores, clocks: Clocks, tmp_path: Path
) -> None:
    await busy(await stores.open(), clocks)
    (tmp_path / "backups").mkdir()
    backup(stores.path, tmp_path / "backups" / "one.db")
    (file,) = (tmp_path / "backups").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_backup_never_overwrites(stores: SqliteStores, tmp_path: Path) -> None:
    await stores.open()
    target = tmp_path / "precious"
    target.write_text("precious")
    with pytest.raises(StoreError, match="never overwrites"):
        backup(stores.path, target)
    with pytest.raises(StoreError, match="never overwrites"):
        backup(stores.path, stores.path)
    assert target.read_text() == "precious"


async def test_a_backup_that_cannot_be_made_leaves_nothing_behind(stores: SqliteStores, tmp_path: Path) -> None:
    await stores.open()
    with pytest.raises(StoreError):
        backup(stores.path, tmp_path / "no such directory" / "backup.db")
    await stores.close()
    (tmp_path / "out").mkdir()
    stores.path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="not a SQLite database"):
        backup(stores.path, tmp_path / "out" / "backup.db")
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_backup_needs_no_hard_links(
    stores: SqliteStores, clocks: Clocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await busy(await stores.open(), clocks)

    def link(source: Path, target: Path) -> None:  # As FAT and some network file systems answer.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", link)
    (tmp_path / "out").mkdir()
    backup(stores.path, tmp_path / "out" / "backup.db")
    assert check(tmp_path / "out" / "backup.db") == []
    with pytest.raises(StoreError, match="never overwrites"):
        backup(stores.path, tmp_path / "out" / "backup.db")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["backup.db"]


async def test_a_backup_for_which_there_is_no_room_names_the_target(
    stores: SqliteStores, clocks: Clocks, tmp_path: Path
) -> None:
    await busy(await stores.open(), clocks)
    await stores.close()
    target = tmp_path / "out" / "backup.db"
    target.parent.mkdir()
    assert stores.path.stat().st_size > 16_384
    # With a bound on the size of files: writing past it fails, as on a full disk.
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -f 16; exec {sys.executable} -m tocsin store backup {target}"],
        env=os.environ | {"TOCSIN_STORE__PATH": str(stores.path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"tocsin: {target}: the backup failed: ")
    assert list(target.parent.iterdir()) == []


def test_a_backup_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        backup(tmp_path / "none.db", tmp_path / "backup.db")
    assert list(tmp_path.iterdir()) == []


# -- restore -----------------------------------------------------------------------------------------------------------


MASTER_KEY: Final = base64.b64encode(bytes(32)).decode()


def give_key(path: Path) -> None:
    """Stores that are put in each other's place have the same master key."""
    os.close(os.open(keys := beside(path).path, os.O_CREAT | os.O_WRONLY, 0o600))
    keys.write_text(MASTER_KEY)


def killed_after_a_commit(path: Path, id: str, *, padding: int = 0) -> None:
    """A server has committed an event, and was killed: the commit stands in the log beside the file alone."""
    child = f"""
import asyncio, os, sys
from pathlib import Path
from tests.contract.support import make_event
from tests.sqlite.opened import opened
from tests.support.clocks import Clocks

async def commit():
    async with opened(Path(sys.argv[1]), server=True) as store:
        await store.queue.append([make_event(Clocks(), id=sys.argv[2], padding={padding})])
        os._exit(0)

asyncio.run(commit())
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    give_key(path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    subprocess.run([sys.executable, "-c", child, str(path), id], env=environment, check=True, timeout=60)
    assert path.with_name(path.name + "-wal").stat().st_size > 0


async def held_by(path: Path) -> list[str]:
    """The ids of the events in the store, found by a server that is started on it."""
    async with opened(path, server=True) as store:
        return ids(await store.queue.claim(1000))


def contents(path: Path) -> dict[str, bytes]:
    """The file and its log. (What SQLite shares between processes is made anew by whoever opens them.)"""
    files = [path, path.with_name(path.name + "-wal")]
    return {file.name: file.read_bytes() for file in files if file.exists()}


def left_beside(path: Path) -> set[str]:
    """Without the master key, which stays, and the locks."""
    return {file.name for file in path.parent.iterdir() if not file.name.endswith(("lock", ".key"))}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "store" / "tocsin.db"
    killed_after_a_commit(path, "old")
    return path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "copied" / "tocsin.db"
    killed_after_a_commit(path, "copied", padding=500_000)
    backup(path, tmp_path / "copy.db")
    return tmp_path / "copy.db"


RESTORE: Final = "import sys; from pathlib import Path; from tocsin.store.sqlite.maintenance import restore; "
RESTORE += "restore(Path(sys.argv[1]), Path(sys.argv[2]))"


async def test_a_copy_takes_the_place_of_a_store_whose_server_was_killed(old: Path, copy: Path) -> None:
    restore(old, copy)
    assert left_beside(old) == {"tocsin.db"}
    assert await held_by(old) == ["copied"]


async def test_a_restore_that_cannot_rename_leaves_the_old_store_with_its_last_commits(
    old: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def fails(source: Path, target: Path) -> None:
        if target == old:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(StoreError, match="the disk reports an I/O error"):
        restore(old, copy)
    monkeypatch.undo()
    assert left_beside(old) <= {"tocsin.db", "tocsin.db-wal", "tocsin.db-shm"}
    assert check(old) == []
    assert await held_by(old) == ["old"]


async def test_a_restore_over_a_damaged_store_that_cannot_rename_leaves_every_byte_of_it(
    old: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.write_bytes(b"no database" * 1000)
    before = contents(old)
    rename = os.replace

    def fails(source: Path, target: Path) -> None:
        if target == old:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(StoreError, match="the disk reports an I/O error"):
        restore(old, copy)
    monkeypatch.undo()
    assert contents(old) == before
    restore(old, copy)
    assert left_beside(old) == {"tocsin.db"}
    assert await held_by(old) == ["copied"]


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this system does not let its user mount anything")
@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ("mount --bind {path} {path}", "is a mount of its own"),
        ("mount --bind -o ro {directory} {directory}", "not writable"),
    ],
)
async def test_a_store_that_cannot_be_replaced_where_it_is_mounted_keeps_its_last_commits(
    old: Path, copy: Path, mount: str, reason: str
) -> None:
    mounted = mount.format(path=old, directory=old.parent)
    told = subprocess.run(
        mounting(mounted, sys.executable, "-c", RESTORE, old, copy), capture_output=True, text=True, check=False
    )
    assert told.returncode != 0
    assert reason in told.stderr
    assert left_beside(old) <= {"tocsin.db", "tocsin.db-wal", "tocsin.db-shm"}
    assert check(old) == []
    assert await held_by(old) == ["old"]


KEEPS: Final = """
set -e
mount -t tmpfs -o size=800k none {mounted}
cp {old} {old}-wal {mounted}/
if {python} -c '{restore}' {mounted}/tocsin.db {copy}; then exit 7; fi
cp {mounted}/tocsin.db* {kept}/
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this system does not let its user mount anything")
async def test_a_restore_to_a_full_disk_leaves_the_old_store_with_its_last_commits(
    old: Path, copy: Path, tmp_path: Path
) -> None:
    mounted, kept = tmp_path / "mounted", tmp_path / "kept"
    mounted.mkdir()
    kept.mkdir()
    script = KEEPS.format(python=sys.executable, restore=RESTORE, mounted=mounted, old=old, copy=copy, kept=kept)
    told = subprocess.run(mounting(script.strip(), "true"), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "disk is full" in told.stderr
    give_key(kept / "tocsin.db")
    assert await held_by(kept / "tocsin.db") == ["old"]


async def test_a_store_that_another_process_reads_is_not_replaced(old: Path, copy: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM event").fetchall()
        other.execute("SELECT 1")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(maintenance, "_BUSY_TIMEOUT_S", 0.05)
            killed_after_a_commit(old, "later")
            with pytest.raises(StoreError, match="another process is using it"):
                restore(old, copy)
    assert await held_by(old) == ["old", "later"]


async def test_through_a_symbolic_link_the_store_behind_it_is_replaced(old: Path, copy: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(old)
    restore(link, copy)
    assert link.is_symlink()
    assert await held_by(old) == ["copied"]


async def test_a_traced_event_is_in_order(stores: SqliteStores, clocks: Clocks) -> None:
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    store = await stores.open()
    await store.queue.append([replace(make_event(clocks), trace=trace), make_event(clocks)])
    assert check(stores.path) == []


async def test_a_backup_tells_how_far_it_is(stores: SqliteStores, clocks: Clocks, tmp_path: Path) -> None:
    store = await stores.open()
    await store.queue.append([make_event(clocks, padding=30_000) for _ in range(800)])
    told: list[tuple[int, int]] = []
    await asyncio.to_thread(backup, stores.path, tmp_path / "backup.db", lambda done, of: told.append((done, of)))
    assert len(told) > 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]
