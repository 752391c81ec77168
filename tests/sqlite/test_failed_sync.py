"""A commit whose sync failed was refused, and stays so: whoever opens the file next does not find it after all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct
from tests.support.sqlite import SqliteStores
from tests.torture import disk

from tocsin.domain.events import EventId

ACCEPTED, REFUSED = 20, 50

# Appends, then has every sync fail and appends again; at the end it is killed.
CHILD = """
import asyncio, os, signal, sqlite3, sys
from pathlib import Path
from tests.contract.support import make_event
from tests.support.clocks import Clocks
from tocsin.store.master_keys import KeyFile
from tocsin.store.ports import StoreUnavailable
from tocsin.store.sqlite import transactions
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions

path, control, overwrites = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
fill = transactions.fill_pages

def fail(connection):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    raise error

def disk(mode):
    with control.open("r+b") as file:
        file.write(mode)

async def append(store, number):
    events = [make_event(Clocks(), padding=900) for _ in range(number)]
    print("appends", *(event.id for event in events), flush=True)
    await store.queue.append(events)

async def write_nothing(store):
    await store.database.write(lambda driver: None)

async def refused(attempt):
    try:
        await attempt
    except StoreUnavailable:
        return
    raise AssertionError("this was acknowledged")

async def main():
    options = SqliteOptions(max_events=10**6, max_bytes=10**9, lease_s=30, keys=KeyFile(Path(sys.argv[6])))
    store = await open_store(path, options, server=True)
    await append(store, int(sys.argv[4]))
    disk(b"s")
    if overwrites == "later":
        transactions.fill_pages = fail
    await refused(append(store, int(sys.argv[5])))
    if overwrites == "later":
        disk(b"-")
        await refused(write_nothing(store))
        transactions.fill_pages = fill
        await write_nothing(store)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


class Appended(Struct):
    """The ids that the child has appended."""

    accepted: list[str]
    refused: list[str]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = disk._build(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip(reason="without a C compiler the shim that makes syncs fail cannot be built")
    return library


def run_child(stores: SqliteStores, shim: Path, *, overwrites: str) -> Appended:
    path = stores.path
    control = shim.with_name("control")
    control.write_bytes(b"-")
    path.parent.mkdir(exist_ok=True)
    environment = os.environ | {
        "LD_PRELOAD": str(shim),
        "TORTURE_DISK": str(control),
        "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]),
    }
    arguments = [str(path), str(control), overwrites, str(ACCEPTED), str(REFUSED), str(stores.keys.path)]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    accepted, refused = (line.split()[1:] for line in child.stdout.splitlines() if line.startswith("appends "))
    return Appended(accepted, refused)


@pytest.mark.parametrize("overwrites", ["at once", "later"])
async def test_what_was_refused_for_a_failed_sync_is_not_there_after_a_crash(
    stores: SqliteStores, shim: Path, overwrites: str
) -> None:
    """`later`: the log cannot be overwritten at once either. Then nothing is written before it is."""
    appended = run_child(stores, shim, overwrites=overwrites)
    store = await stores.crash()
    assert [await store.log.record(EventId(id)) for id in appended.refused] == [None] * REFUSED
    assert [await store.log.record(EventId(id)) is not None for id in appended.accepted] == [True] * ACCEPTED
