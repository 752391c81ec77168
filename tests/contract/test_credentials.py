"""Credentials: few, and known to everyone at once."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace
from tests.contract.factories import Stores

from tocsin.domain.credentials import Check, Credential
from tocsin.store.ports import Store
from tocsin.store.records import Signal

FIRST = Credential("apns", "39JSDKGJ38.de.cospace.app", b"KEY \xff", True, 1)
SECOND = Credential("apns", "39JSDKGJ38.de.cospace.other", b"CERTIFICATE", False, 2)


async def test_credentials_are_kept_over_a_crash_in_order_of_their_accounts(stores: Stores) -> None:
    store = await stores.open()
    await store.credentials.put(FIRST)
    await store.credentials.put(SECOND)
    store = await stores.crash()
    assert await store.credentials.of("apns") == [FIRST, SECOND]


async def test_a_credential_put_again_is_replaced_whole(store: Store) -> None:
    await store.credentials.put(FIRST)
    assert await store.credentials.of("apns") == [FIRST]
    replaced = replace(FIRST, content=b"CERTIFICATE", changed_ms=9)
    await store.credentials.put(replaced)
    assert await store.credentials.of("apns") == [replaced]


async def test_a_removed_credential_is_gone(store: Store) -> None:
    await store.credentials.put(FIRST)
    assert await store.credentials.remove("apns", FIRST.account) is True
    assert await store.credentials.remove("apns", FIRST.account) is False
    assert await store.credentials.of("apns") == []


async def test_each_provider_has_its_own_under_the_same_name(store: Store) -> None:
    other = replace(FIRST, provider="fcm", content=b"other")
    await store.credentials.put(FIRST)
    await store.credentials.put(other)
    assert (await store.credentials.of("apns"), await store.credentials.of("fcm")) == ([FIRST], [other])
    await store.credentials.remove("fcm", other.account)
    assert await store.credentials.of("apns") == [FIRST]


def project(name: str, *, default: bool = False) -> Credential:
    return Credential("fcm", name, b"{}", default)


async def defaults(store: Store) -> dict[str, bool]:
    return {credential.account: credential.default for credential in await store.credentials.of("fcm")}


async def test_the_first_one_is_the_default_and_there_is_never_more_than_one(store: Store) -> None:
    await store.credentials.put(project("main"))
    await store.credentials.put(project("beta"))
    assert await defaults(store) == {"beta": False, "main": True}
    await store.credentials.put(project("beta", default=True))
    assert await defaults(store) == {"beta": True, "main": False}


async def test_the_only_one_stays_the_default_when_it_is_changed(store: Store) -> None:
    await store.credentials.put(project("main"))
    await store.credentials.put(project("main"))
    assert await defaults(store) == {"main": True}


async def test_the_default_stays_it_when_it_is_changed_beside_others(store: Store) -> None:
    await store.credentials.put(project("main"))
    await store.credentials.put(project("beta"))
    await store.credentials.put(project("main"))
    assert await defaults(store) == {"beta": False, "main": True}


async def test_after_the_default_is_removed_the_next_one_put_becomes_it(store: Store) -> None:
    for name in ("main", "beta"):
        await store.credentials.put(project(name))
    await store.credentials.remove("fcm", "main")
    assert await defaults(store) == {"beta": False}
    await store.credentials.put(project("beta"))
    assert await defaults(store) == {"beta": True}


async def test_a_list_read_while_it_changes_is_not_remembered(store: Store) -> None:
    for n in range(50):
        changed = replace(FIRST, changed_ms=n)
        await asyncio.gather(store.credentials.put(changed), store.credentials.of("apns"))
        assert await store.credentials.of("apns") == [changed]


async def test_a_change_is_seen_by_whoever_asks_after_it(store: Store) -> None:
    await store.credentials.of("apns")
    asked = asyncio.ensure_future(store.credentials.of("apns"))
    await store.credentials.put(FIRST)
    assert await store.credentials.of("apns") == [FIRST]
    await asked
    assert await store.credentials.of("apns") == [FIRST]


async def test_a_change_by_another_process_is_noticed(stores: Stores) -> None:
    server = await stores.open()
    assert await server.credentials.of("apns") == []
    other = await stores.open(server=False)
    await other.credentials.put(FIRST)
    await stores.noticed(server)
    assert await server.credentials.of("apns") == [FIRST]


REFUSED = Check(at_ms=5, sandbox=True, ok=False, sentence="Apple does not know the key ABC123DEFG: „Grüße“")
ACCEPTED = Check(at_ms=6, sandbox=False, ok=True, sentence="Apple accepts the key.")


async def test_the_last_check_of_a_credential_is_kept_over_a_crash(stores: Stores) -> None:
    store = await stores.open()
    for credential in (FIRST, SECOND):
        await store.credentials.put(credential)
    assert await store.credentials.checks("apns") == {}
    await store.credentials.note_check(FIRST, ACCEPTED)
    await store.credentials.note_check(FIRST, REFUSED)
    await store.credentials.note_check(SECOND, ACCEPTED)
    store = await stores.crash()
    assert await store.credentials.checks("apns") == {FIRST.account: REFUSED, SECOND.account: ACCEPTED}
    assert await store.credentials.checks("fcm") == {}


async def test_a_check_is_of_the_credential_that_was_checked_and_of_none_after_it(store: Store) -> None:
    await store.credentials.put(FIRST)
    await store.credentials.note_check(FIRST, ACCEPTED)
    replaced = replace(FIRST, content=b"CERTIFICATE", changed_ms=9)
    await store.credentials.put(replaced)
    assert await store.credentials.checks("apns") == {}
    # The answer to a question that was asked before it was replaced.
    await store.credentials.note_check(FIRST, REFUSED)
    assert await store.credentials.checks("apns") == {}
    await store.credentials.note_check(replaced, ACCEPTED)
    assert await store.credentials.checks("apns") == {FIRST.account: ACCEPTED}
    await store.credentials.note_check(FIRST, REFUSED)
    assert await store.credentials.checks("apns") == {FIRST.account: ACCEPTED}
    await store.credentials.remove("apns", FIRST.account)
    assert await store.credentials.checks("apns") == {}
    await store.credentials.note_check(replaced, ACCEPTED)
    await store.credentials.put(replaced)
    assert await store.credentials.checks("apns") == {}


async def test_a_check_by_another_process_is_shown_and_is_no_change_of_the_credential(stores: Stores) -> None:
    server = await stores.open()
    await server.credentials.put(FIRST)
    await stores.noticed(server)
    told: list[Signal] = []
    server.signals.subscribe(told.append)
    other = await stores.open(server=False)
    await other.credentials.note_check(FIRST, REFUSED)
    await stores.noticed(server)
    assert await server.credentials.checks("apns") == {FIRST.account: REFUSED}
    assert told == []


async def test_bringing_all_under_the_newest_key_tells_how_many_records_it_has_looked_at(store: Store) -> None:
    for number in range(120):
        await store.credentials.put(Credential("apns", f"39JSDKGJ38.app{number}", b"KEY", changed_ms=number))
    told: list[tuple[int, int]] = []
    assert await store.credentials.rewrap(lambda done, total: told.append((done, total))) == 0
    total = told[-1][1]
    assert total >= 120
    assert told == [(100, total), (total, total)]


async def test_a_credential_shows_no_secret_when_it_is_printed() -> None:
    assert "KEY" not in repr(FIRST)
