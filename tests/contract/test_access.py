"""Sessions and keys: shown once, stored as hashes, gone when they are revoked."""

from __future__ import annotations

import pytest
from tests.contract.factories import Stores
from tests.contract.support import OTHER_OWNER, OWNER
from tests.support.clocks import Clocks

from tocsin.store.ports import Store
from tocsin.store.records import Area, KeyLimits, Rate, Role


async def test_a_secret_opens_its_session_also_after_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    secret, session = await store.access.create_session(OWNER, None)
    assert (session.owner, session.created_ms, session.expires_ms) == (OWNER, clocks.now_ms, None)
    store = await stores.crash()
    assert await store.access.session(secret) == session


async def test_a_session_may_belong_to_nobody_yet(store: Store) -> None:
    secret, session = await store.access.create_session(None, None)
    assert session.owner is None
    assert await store.access.session(secret) == session


@pytest.mark.parametrize("role", list(Role))
async def test_a_secret_opens_its_key(store: Store, role: Role) -> None:
    secret, key = await store.access.create_key(role, "fax backend", None)
    assert (key.role, key.name) == (role, "fax backend")
    assert await store.access.key(secret) == key


LIMITS = {
    "events": KeyLimits(events=frozenset({"fax_new", "recording_new"})),
    "rate": KeyLimits(rate=Rate(50, 1)),
    "an event and a rate": KeyLimits(events=frozenset({"chat_message"}), rate=Rate(1000, 3600)),
    "read-only": KeyLimits(read_only=True),
    "areas": KeyLimits(areas=frozenset({Area.DEVICES, Area.DELIVERIES})),
    "read-only in every area": KeyLimits(read_only=True, areas=frozenset(Area)),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
async def test_a_key_keeps_its_limits_also_after_a_crash(stores: Stores, limits: KeyLimits) -> None:
    store = await stores.open()
    secret, key = await store.access.create_key(Role.ADMIN, "ops", None, limits)
    assert key.limits == limits
    assert (await store.access.key(secret), await store.access.keys()) == (key, [key])
    store = await stores.crash()
    assert (await store.access.key(secret), await store.access.keys()) == (key, [key])


async def test_a_key_is_not_limited_where_nobody_says_so(store: Store) -> None:
    secret, _ = await store.access.create_key(Role.ADMIN, "ops", None)
    opened = await store.access.key(secret)
    assert opened is not None
    assert opened.limits == KeyLimits()


@pytest.mark.parametrize("wrong", ["", "x", "ses_000000000000", "\ud800", "' OR 1=1 --"])
async def test_what_is_no_secret_opens_nothing(store: Store, wrong: str) -> None:
    await store.access.create_session(OWNER, None)
    await store.access.create_key(Role.ADMIN, "admin", None)
    assert await store.access.session(wrong) is None
    assert await store.access.key(wrong) is None


async def test_a_session_is_no_key_and_an_id_is_no_secret(store: Store) -> None:
    secret, session = await store.access.create_session(OWNER, None)
    assert await store.access.key(secret) is None
    assert await store.access.session(session.id) is None


async def test_secrets_are_all_different(store: Store) -> None:
    made = [await store.access.create_session(OWNER, None) for _ in range(20)]
    assert len({secret for secret, _ in made}) == len({session.id for _, session in made}) == 20


async def test_an_expired_secret_opens_nothing_however_well_it_is_remembered(store: Store, clocks: Clocks) -> None:
    session_secret, _ = await store.access.create_session(OWNER, clocks.now_ms + 1000)
    key_secret, _ = await store.access.create_key(Role.PRODUCER, "p", clocks.now_ms + 1000)
    assert await store.access.session(session_secret) is not None
    assert await store.access.key(key_secret) is not None
    clocks.pass_time(1)
    assert await store.access.session(session_secret) is None
    assert await store.access.key(key_secret) is None


@pytest.mark.parametrize("by", ["id", "secret"])
async def test_a_revoked_secret_opens_nothing_from_then_on(store: Store, by: str) -> None:
    secret, session = await store.access.create_session(OWNER, None)
    other_secret, other = await store.access.create_session(OWNER, None)
    assert await store.access.session(secret) == session
    assert await store.access.revoke_session(session.id if by == "id" else secret) is True
    assert await store.access.session(secret) is None
    assert await store.access.session(other_secret) == other
    assert await store.access.revoke_session(session.id) is False


@pytest.mark.parametrize("by", ["id", "secret"])
async def test_a_revoked_key_opens_nothing_from_then_on(store: Store, by: str) -> None:
    secret, key = await store.access.create_key(Role.PRODUCER, "p", None)
    assert await store.access.key(secret) == key
    assert await store.access.revoke_key(key.id if by == "id" else secret) is True
    assert await store.access.key(secret) is None
    assert await store.access.revoke_key(key.id) is False


async def test_what_another_process_revokes_opens_nothing_once_it_is_noticed(stores: Stores) -> None:
    server = await stores.open()
    secret, session = await server.access.create_session(OWNER, None)
    key_secret, key = await server.access.create_key(Role.ADMIN, "a", None)
    assert await server.access.session(secret) is not None
    assert await server.access.key(key_secret) is not None
    other = await stores.open(server=False)
    assert await other.access.revoke_session(session.id)
    assert await other.access.revoke_key(key.id)
    await stores.noticed(server)
    assert await server.access.session(secret) is None
    assert await server.access.key(key_secret) is None


async def test_sessions_and_keys_are_listed(store: Store) -> None:
    _, one = await store.access.create_session(OWNER, None)
    _, other = await store.access.create_session(OTHER_OWNER, None)
    _, key = await store.access.create_key(Role.ADMIN, "a", None)
    assert sorted(session.id for session in await store.access.sessions()) == sorted([one.id, other.id])
    assert await store.access.sessions(OTHER_OWNER) == [other]
    assert await store.access.keys() == [key]
