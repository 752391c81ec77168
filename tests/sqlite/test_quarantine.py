"""Hundreds of thousands in quarantine keep nobody waiting."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from tests.contract.support import ACCOUNT, DAY_MS, OWNER, keep
from tests.support.clocks import Clocks
from tests.support.sqlite import SqliteStores

from tocsin.store.records import Quarantine
from tocsin.store.sqlite import quarantine
from tocsin.store.sqlite.store import SqliteStore

MANY: Final = 30_000
_STEPS: Final = 100


async def fill(store: SqliteStore, number: int) -> None:
    """Registrations of many owners in quarantine, written into the table: to register them all would take minutes."""
    insert = f"""
        WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {number})
        INSERT INTO removal(owner, provider, token, account, device, removed_ms, reason, quarantined)
        SELECT printf('owner-%d', n % 1000), 'apns', printf('token-%d', n), '{ACCOUNT}',
            json_array(printf('owner-%d', n % 1000), 'apns', printf('token-%d', n), 'application=x', n, n, NULL),
            1000 + n, '410', 1
        FROM n"""
    await store.database.write(lambda driver: driver.execute(insert).rowcount)


async def steps_of(store: SqliteStore, read: Callable[[sqlite3.Connection], object]) -> int:
    """How many hundred instructions of SQLite's machine a read takes."""

    def count(driver: sqlite3.Connection) -> int:
        taken = 0

        def step() -> None:
            nonlocal taken
            taken += 1

        driver.set_progress_handler(step, _STEPS)
        read(driver)
        driver.set_progress_handler(None, 0)
        return taken

    return await store.database.read(count)


async def test_whether_a_fuse_holds_anything_back_is_read_without_counting_what(store: SqliteStore) -> None:
    """It is read every second while a fuse is blown: 0.85 s of each with 450,000 in quarantine."""
    await fill(store, MANY)
    assert await store.registry.quarantined_accounts() == [("apns", ACCOUNT)]
    assert await store.registry.quarantine() == [Quarantine("apns", ACCOUNT, MANY, 1001)]
    assert await steps_of(store, quarantine.counted) > 100
    assert await steps_of(store, quarantine.accounts) <= 2


async def test_every_step_of_a_release_is_small_however_much_there_is(store: SqliteStore) -> None:
    await fill(store, MANY)
    before = await steps_of(store, lambda driver: driver.execute(quarantine._SOME, ("apns", ACCOUNT, MANY)).fetchone())
    assert before < 1000
    assert await store.registry.release_quarantine(ACCOUNT, 100) == MANY
    devices = await store.database.read(lambda driver: driver.execute("SELECT count(*) FROM device").fetchone())
    assert devices == (MANY,)
    generations = "SELECT count(DISTINCT generation) FROM device"
    assert await store.database.read(lambda driver: driver.execute(generations).fetchone()) == (MANY,)


async def test_the_signals_of_a_release_are_forgotten_in_steps(stores: SqliteStores, clocks: Clocks) -> None:
    server, command = await stores.open(), await stores.open(server=False)
    await fill(server, 3000)
    assert await command.registry.release_quarantine(ACCOUNT, 100) == 3000
    await server.notice_changes()

    async def kept() -> int:
        number: int
        (number,) = await server.database.read(lambda driver: driver.execute("SELECT count(*) FROM signal").fetchone())
        return number

    assert await kept() == 3001
    clocks.pass_time(2 * DAY_MS / 1000)
    assert await server.prune(keep(0, 0), for_s=0)
    assert await kept() == 2001
    while await server.prune(keep(0, 0)):
        pass
    assert await kept() == 1


async def test_what_a_command_releases_in_steps_the_server_may_send_to(stores: SqliteStores) -> None:
    server, command = await stores.open(), await stores.open(server=False)
    await fill(server, 1200)
    told: list[object] = []
    server.signals.subscribe(told.append)
    assert await command.registry.release_quarantine(ACCOUNT, 100) == 1200
    await server.notice_changes()
    assert len(told) == 1201
    assert await server.registry.devices_of([OWNER]) == {}
