"""Signals: what was changed is told before its call returns, and in other processes once they notice."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.factories import Stores
from tests.contract.support import ACCOUNT, LANE, OTHER_LANE, OWNER, TOKEN, claim, make_event, parked, register
from tests.contract.support import registration as new_registration
from tests.support.clocks import Clocks
from tests.support.sqlite import SqliteStores

from tocsin.domain.credentials import Credential
from tocsin.domain.devices import DeviceToken
from tocsin.store.ports import Store
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


def heard(store: Store) -> list[Signal]:
    signals: list[Signal] = []
    store.signals.subscribe(signals.append)
    return signals


async def test_registering_and_deleting_a_token_are_signalled(store: Store) -> None:
    signals = heard(store)
    await register(store, "a")
    assert signals == [TokenRegistered(OWNER, "apns", TOKEN)]
    await store.registry.delete(OWNER, "apns", TOKEN)
    assert signals[1:] == [TokenDeleted(OWNER, "apns", TOKEN)]


async def test_deleting_a_token_that_is_not_there_is_signalled_all_the_same(store: Store) -> None:
    signals = heard(store)
    await store.registry.delete(OWNER, "apns", TOKEN)
    assert signals == [TokenDeleted(OWNER, "apns", TOKEN)]


async def test_an_eviction_is_signalled_as_a_deletion(store: Store) -> None:
    await register(store, "a")
    signals = heard(store)
    await store.registry.add(new_registration("b"), 1)
    assert signals == [TokenRegistered(OWNER, "apns", DeviceToken("b")), TokenDeleted(OWNER, "apns", TOKEN)]


async def test_a_dead_token_is_signalled_as_deleted_and_its_quarantine_as_changed(store: Store) -> None:
    device = await register(store, "a")
    signals = heard(store)
    await store.registry.remove_dead([DeadToken(device, ACCOUNT, "410")], quarantine=True)
    assert signals == [TokenDeleted(OWNER, "apns", TOKEN), QuarantineChanged(ACCOUNT)]


async def test_what_comes_back_is_signalled_as_restored(store: Store) -> None:
    device = await register(store, "a")
    await store.registry.remove_dead([DeadToken(device, ACCOUNT, "410")], quarantine=True)
    signals = heard(store)
    await store.registry.release_quarantine(ACCOUNT, 100)
    assert signals == [TokenRestored(OWNER, "apns", TOKEN), QuarantineChanged(ACCOUNT)]


async def test_a_token_restored_out_of_quarantine_changes_the_quarantine(store: Store) -> None:
    device = await register(store, "a")
    await store.registry.remove_dead([DeadToken(device, ACCOUNT, "410")], quarantine=True)
    signals = heard(store)
    await store.registry.restore("apns", TOKEN, 100)
    assert signals == [TokenRestored(OWNER, "apns", TOKEN), QuarantineChanged(ACCOUNT)]


async def test_what_is_not_restored_is_not_signalled(store: Store) -> None:
    device = await register(store, "a")
    await store.registry.remove_dead([DeadToken(device, ACCOUNT, "410")])
    await register(store, "a")
    signals = heard(store)
    await store.registry.restore("apns", TOKEN, 100)
    assert signals == []


async def test_credentials_keys_and_sessions_are_signalled(store: Store) -> None:
    signals = heard(store)
    await store.credentials.put(Credential("apns", ACCOUNT, b"{}"))
    await store.credentials.remove("apns", ACCOUNT)
    assert signals == [CredentialsChanged("apns")] * 2
    _, key = await store.access.create_key(Role.ADMIN, "", None)
    _, session = await store.access.create_session(OWNER, None)
    await store.access.revoke_key(key.id)
    await store.access.revoke_session(session.id)
    assert signals[2:] == [AccessRevoked()] * 2


async def test_waking_lanes_is_signalled_whether_or_not_anything_waits_for_them(store: Store, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks)])
    (item,) = await store.queue.claim(10)
    await store.queue.settle([parked(item, clocks.now_ms + 60_000)])
    signals = heard(store)
    await store.schedule.wake([LANE, OTHER_LANE])
    assert signals == [LanesWoken((LANE, OTHER_LANE))]
    assert len(await claim(store, 0, {LANE: 10})) == 1


async def test_a_receiver_hears_only_what_comes_after_it(store: Store) -> None:
    await register(store, "a")
    assert heard(store) == []


async def test_a_server_hears_what_a_command_has_changed(stores: Stores) -> None:
    server = await stores.open()
    device = await register(server, "a")
    signals = heard(server)
    command = await stores.open(server=False)
    await command.registry.delete(OWNER, "apns", TOKEN, by_operator=True)
    await command.registry.restore("apns", TOKEN, 100)
    await command.credentials.put(Credential("fcm", "main", b"{}"))
    _, key = await command.access.create_key(Role.ADMIN, "", None)
    await command.access.revoke_key(key.id)
    assert signals == []
    await stores.noticed(server)
    assert signals == [
        TokenDeleted(OWNER, "apns", TOKEN),
        TokenRestored(OWNER, "apns", TOKEN),
        CredentialsChanged("fcm"),
        AccessRevoked(),
    ]
    await stores.noticed(server)
    assert len(signals) == 4, "each is heard once"
    assert device.generation


async def test_what_was_signalled_before_a_server_began_is_not_heard_again(stores: Stores) -> None:
    await stores.open()
    command = await stores.open(server=False)
    await command.credentials.put(Credential("fcm", "main", b"{}"))
    server = await stores.crash()
    signals = heard(server)
    await stores.noticed(server)
    assert signals == []


async def test_who_claims_an_event_has_heard_of_the_registrations_before_it(stores: Stores, clocks: Clocks) -> None:
    """What was heard of an earlier deletion would keep the event from the device."""
    if isinstance(stores, SqliteStores):
        pytest.skip(reason="one process registers and accepts; it notices within a second what a command has changed")
    server, command = await stores.open(), await stores.open(server=False)
    await register(server, "a")
    await command.registry.delete(OWNER, "apns", TOKEN)
    await stores.noticed(server)
    signals = heard(server)
    await command.registry.add(new_registration("a"), 100)
    await command.queue.append([make_event(clocks)])
    if not (items := await server.queue.claim(10)):
        await stores.noticed(server)
        items = await server.queue.claim(10)
    assert len(items) == 1
    assert signals == [TokenRegistered(OWNER, "apns", TOKEN)]


# -- of a registration, the last signal says how it is -----------------------------------------------------------------


async def test_a_deletion_elsewhere_does_not_outlive_a_registration_here(stores: Stores) -> None:
    """The server hears of the deletion only after the token was registered again through it."""
    server = await stores.open()
    await register(server, "a")
    command = await stores.open(server=False)
    await command.registry.delete(OWNER, "apns", TOKEN, by_operator=True)
    signals = heard(server)
    await register(server, "a")
    await stores.noticed(server)
    assert signals[-1] == TokenRegistered(OWNER, "apns", TOKEN)


async def test_a_deletion_elsewhere_does_not_outlive_a_restore_here(stores: Stores) -> None:
    server = await stores.open()
    await register(server, "a")
    command = await stores.open(server=False)
    await command.registry.delete(OWNER, "apns", TOKEN, by_operator=True)
    signals = heard(server)
    await server.registry.restore("apns", TOKEN, 100)
    await stores.noticed(server)
    assert isinstance(signals[-1], TokenRegistered | TokenRestored)


async def test_a_restore_elsewhere_does_not_outlive_a_deletion_here(stores: Stores) -> None:
    """The server hears of the restore only after the token was deleted through it."""
    server = await stores.open()
    await register(server, "a")
    await server.registry.delete(OWNER, "apns", TOKEN, by_operator=True)
    command = await stores.open(server=False)
    await command.registry.restore("apns", TOKEN, 100)
    signals = heard(server)
    await server.registry.delete(OWNER, "apns", TOKEN)
    await stores.noticed(server)
    assert signals[-1] == TokenDeleted(OWNER, "apns", TOKEN)


async def test_a_deletion_here_ends_with_a_restore_elsewhere(stores: Stores) -> None:
    server = await stores.open()
    await register(server, "a")
    await register(server, "b")
    signals = heard(server)
    command = await stores.open(server=False)
    for token in (TOKEN, DeviceToken("b")):
        # Noticed while the deletion of the next one is on its way.
        deleted = asyncio.ensure_future(server.registry.delete(OWNER, "apns", token, by_operator=True))
        await stores.noticed(server)
        await deleted
        await command.registry.restore("apns", token, 100)
    await stores.noticed(server)
    last = {signal.token: signal for signal in signals if isinstance(signal, TokenDeleted | TokenRestored)}
    assert {token: type(signal) for token, signal in last.items()} == {"a": TokenRestored, "b": TokenRestored}
