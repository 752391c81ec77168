"""The table `signal`: what commands tell a running server. The server itself writes nothing into it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from tests.contract.support import (
    ACCOUNT,
    DAY_MS,
    LANE,
    OTHER_OWNER,
    OWNER,
    TOKEN,
    claim,
    done,
    keep,
    make_event,
    parked,
    register,
    registration,
)
from tests.sqlite.loop_worker import LoopWorkers
from tests.sqlite.story import opened_with
from tests.support.clocks import Clocks
from tests.support.sqlite import SqliteStores

from tocsin.domain.credentials import Credential
from tocsin.domain.devices import DeviceToken
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import (
    AccessRevoked,
    CredentialsChanged,
    DeadToken,
    LanesWoken,
    QuarantineChanged,
    Role,
    Signal,
    TokenDeleted,
    TokenRegistered,
    TokenRestored,
)
from tocsin.store.sqlite.store import SqliteStore

DAY_S = DAY_MS / 1000
A, B = TOKEN, DeviceToken("b")
CHANGES = [
    TokenRegistered(OWNER, "apns", A),
    TokenRegistered(OWNER, "apns", B),
    TokenDeleted(OWNER, "apns", A),
    TokenRegistered(OTHER_OWNER, "apns", A),
    TokenDeleted(OTHER_OWNER, "apns", A),
    QuarantineChanged(ACCOUNT),
    TokenRestored(OTHER_OWNER, "apns", A),
    QuarantineChanged(ACCOUNT),
    QuarantineChanged(ACCOUNT),
    CredentialsChanged("fcm"),
    CredentialsChanged("fcm"),
    AccessRevoked(),
    AccessRevoked(),
    LanesWoken((LANE,)),
    TokenDeleted(OWNER, "apns", B),
]
"""What `change_everything` signals."""


async def change_everything(store: SqliteStore) -> None:
    """Every change that is signalled."""
    registry = store.registry
    await registry.add(registration(A), 1)
    await registry.add(registration(B), 1)
    device = await register(store, A, owner=OTHER_OWNER)
    await registry.remove_dead([DeadToken(device, ACCOUNT, "410")], quarantine=True)
    await registry.release_quarantine(ACCOUNT, 100)
    await registry.purge_quarantine(ACCOUNT)
    await store.credentials.put(Credential("fcm", "main", b"{}"))
    await store.credentials.remove("fcm", "main")
    _, key = await store.access.create_key(Role.ADMIN, "", None)
    _, session = await store.access.create_session(OWNER, None)
    await store.access.revoke_key(key.id)
    await store.access.revoke_session(session.id)
    await store.schedule.wake([LANE])
    await registry.delete(OWNER, "apns", B)


def heard(store: SqliteStore) -> list[Signal]:
    signals: list[Signal] = []
    store.signals.subscribe(signals.append)
    return signals


async def table(store: SqliteStore) -> list[tuple[int, Any, int]]:
    """The rows: number, signal, time."""
    rows = await store.database.read(
        lambda driver: driver.execute("SELECT id, body, at_ms FROM signal ORDER BY id").fetchall()
    )
    return [(id, msgspec.json.decode(body, type=Signal), at_ms) for id, body, at_ms in rows]


def write_rows(path: Path, at_ms: int, *bodies: str | bytes) -> None:
    """What a command of another version has written."""
    with closing(sqlite3.connect(path)) as other, other:
        other.executemany("INSERT INTO signal(body, at_ms) VALUES (?, ?)", [(body, at_ms) for body in bodies])


# -- who writes --------------------------------------------------------------------------------------------------------


async def test_the_server_writes_nothing_into_it_for_its_own_changes(store: SqliteStore) -> None:
    signals = heard(store)
    await change_everything(store)
    assert signals == CHANGES
    assert await table(store) == []


async def test_a_command_writes_every_one_of_its_changes(stores: SqliteStores, clocks: Clocks) -> None:
    command = await stores.open(server=False)
    signals = heard(command)
    await change_everything(command)
    assert signals == CHANGES
    assert [(signal, at_ms) for _, signal, at_ms in await table(command)] == [(one, clocks.now_ms) for one in CHANGES]


async def test_the_server_hears_of_a_commands_changes_once_and_in_their_order(stores: SqliteStores) -> None:
    server, command = await stores.open(), await stores.open(server=False)
    signals = heard(server)
    await change_everything(command)
    assert signals == []
    assert await server.notice_changes()
    assert signals == CHANGES
    assert not await server.notice_changes()
    await command.credentials.put(Credential("apns", "x", b"{}"))
    assert await server.notice_changes()
    assert signals == [*CHANGES, CredentialsChanged("apns")]


async def test_a_change_that_fails_is_not_signalled(stores: SqliteStores) -> None:
    server, command = await stores.open(), await stores.open(server=False)
    signals = heard(server)
    with pytest.raises(UnicodeEncodeError):
        await command.registry.add(registration("\ud800"), 10)
    await server.notice_changes()
    assert signals == []
    assert await table(command) == []


async def test_a_server_that_starts_does_not_hear_of_what_was_signalled_before(stores: SqliteStores) -> None:
    command = await stores.open(server=False)
    await register(command, A)
    server = await stores.open()
    signals = heard(server)
    await register(command, B)
    await server.notice_changes()
    assert signals == [TokenRegistered(OWNER, "apns", B)]


async def test_events_that_a_command_appends_need_no_signal(stores: SqliteStores, clocks: Clocks) -> None:
    server, command = await stores.open(), await stores.open(server=False)
    await command.queue.append([make_event(clocks)])
    assert await table(command) == []
    await server.notice_changes()
    assert len(await server.queue.claim(10)) == 1


async def test_lanes_that_a_command_wakes_are_due_at_once(stores: SqliteStores, clocks: Clocks) -> None:
    server = await stores.open()
    await server.queue.append([make_event(clocks)])
    (item,) = await server.queue.claim(1)
    await server.queue.settle([parked(item, clocks.now_ms + DAY_MS)])
    command = await stores.open(server=False)
    await command.schedule.wake([LANE])
    assert [signal for _, signal, _ in await table(command)] == [LanesWoken((LANE,))]
    signals = heard(server)
    await server.notice_changes()
    assert signals == [LanesWoken((LANE,))]


# -- what cannot be read -----------------------------------------------------------------------------------------------


async def test_a_signal_of_an_unknown_kind_is_passed_over(stores: SqliteStores, clocks: Clocks) -> None:
    server, command = await stores.open(), await stores.open(server=False)
    signals = heard(server)
    await register(command, A)
    unknown = ('{"type":"MoonHasRisen","phase":1}', "{}", "[1]", "no json", '{"type":"TokenDeleted"}', b"\xff")
    write_rows(stores.path, clocks.now_ms, *unknown)
    await command.registry.delete(OWNER, "apns", A)
    await server.notice_changes()
    assert signals == [TokenRegistered(OWNER, "apns", A), TokenDeleted(OWNER, "apns", A)]
    write_rows(stores.path, clocks.now_ms, *unknown)
    assert await server.notice_changes()
    assert len(signals) == 2


async def test_a_signal_with_a_field_more_is_heard(stores: SqliteStores, clocks: Clocks) -> None:
    server = await stores.open()
    signals = heard(server)
    write_rows(stores.path, clocks.now_ms, '{"type":"CredentialsChanged","provider":"fcm","account":"main"}')
    await server.notice_changes()
    assert signals == [CredentialsChanged("fcm")]


# -- nothing is lost ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["before the look", "after the look"])
async def test_a_signal_is_heard_although_the_transaction_failed_in_which_it_was_read(
    tmp_path: Path, stores: SqliteStores, clocks: Clocks, fails: str
) -> None:
    """The look for changes shares a transaction with whatever else is written at that moment."""
    stores.path = tmp_path / "tocsin.db"
    async with opened_with(stores.path, clocks, Random(1), LoopWorkers()) as server:
        await register(server, A)
        command = await stores.open(server=False)
        signals = heard(server)
        await command.registry.delete(OWNER, "apns", A)
        together = [server.notice_changes(), server.database.write(_disk_full)]
        in_order = together if fails == "after the look" else reversed(together)
        answers = await asyncio.gather(*in_order, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
        assert signals == []
        assert await server.notice_changes()
        assert await server.registry.devices_of([OWNER]) == {}
        assert signals == [TokenDeleted(OWNER, "apns", A)]


async def test_changes_are_told_in_the_order_of_their_commits_also_when_all_are_answered_at_once(
    tmp_path: Path, stores: SqliteStores, clocks: Clocks
) -> None:
    """As they are when the event loop was busy: a deletion here, a restore elsewhere, and the look that notices it."""
    stores.path = tmp_path / "tocsin.db"
    workers = LoopWorkers()
    async with opened_with(stores.path, clocks, Random(1), workers) as server:
        await register(server, A)
        command = await stores.open(server=False)
        signals = heard(server)
        workers.writer.holds_answers = True
        deleting = asyncio.ensure_future(server.registry.delete(OWNER, "apns", A, by_operator=True))
        while await command.registry.restore("apns", A, 100) == 0:
            await asyncio.sleep(0)  # the deletion has not run yet
        looks = len(workers.writer.batches) + 1
        noticing = asyncio.ensure_future(server.notice_changes())
        while len(workers.writer.batches) < looks:
            await asyncio.sleep(0)
        assert signals == []
        workers.writer.holds_answers = False
        workers.writer.answer()
        assert await asyncio.gather(deleting, noticing) == [True, True]
        assert signals == [TokenDeleted(OWNER, "apns", A), TokenRestored(OWNER, "apns", A)]


def _disk_full(driver: sqlite3.Connection) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


# -- pruning -----------------------------------------------------------------------------------------------------------


async def test_signals_are_forgotten_after_a_day_and_the_newest_stays(stores: SqliteStores, clocks: Clocks) -> None:
    server, command = await stores.open(), await stores.open(server=False)
    for token in ("a", "b"):
        await command.registry.add(registration(token), 10)
    clocks.pass_time(DAY_S / 2)
    for token in ("c", "d"):
        await command.registry.add(registration(token), 10)
    await server.prune(keep(0, 0))
    assert len(await table(server)) == 4
    clocks.pass_time(DAY_S / 2)
    await server.prune(keep(0, 0))
    assert len(await table(server)) == 4  # they are just a day old
    clocks.pass_time(1)
    await server.prune(keep(0, 0))
    assert [signal.token for _, signal, _ in await table(server)] == ["c", "d"]
    clocks.pass_time(30 * DAY_S)
    await server.prune(keep(0, 0))
    assert [signal.token for _, signal, _ in await table(server)] == ["d"]


async def test_after_all_others_were_forgotten_the_next_signal_is_heard(stores: SqliteStores, clocks: Clocks) -> None:
    """The newest stays so that its number is not given out again: the server asks for what comes after it."""
    server, command = await stores.open(), await stores.open(server=False)
    for token in "abc":
        await command.registry.add(registration(token), 10)
    await server.notice_changes()
    for number in range(3):
        clocks.pass_time(2 * DAY_S)
        await server.prune(keep(0, 0))
        assert len(await table(server)) == 1
        signals = heard(server)
        await command.registry.add(registration(f"later {number}"), 10)
        await server.notice_changes()
        assert signals == [TokenRegistered(OWNER, "apns", DeviceToken(f"later {number}"))]


async def test_what_retention_is_configured_says_nothing_about_signals(stores: SqliteStores, clocks: Clocks) -> None:
    server, command = await stores.open(), await stores.open(server=False)
    for token in "abc":
        await command.registry.add(registration(token), 10)
    clocks.pass_time(2 * DAY_S)
    await server.prune(keep(365 * DAY_S, 365 * DAY_S))
    assert len(await table(server)) == 1


async def test_a_server_that_settles_and_appends_leaves_the_table_empty(store: SqliteStore, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks) for _ in range(10)])
    await store.queue.settle([done(item) for item in await claim(store, 10, {})])
    await store.prune(keep(0, 0))
    assert await table(store) == []
