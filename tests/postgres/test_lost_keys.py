"""A master key that is lost: what it encrypts is given up, and all the rest can be used again."""

from __future__ import annotations

import asyncio
import base64

import pytest
from tests.contract.support import EVERYTHING, OWNER, done, ids, parked, register
from tests.postgres.nodes import Nodes, event_of

from tocsin.domain.actors import Actor, ActorKind
from tocsin.domain.credentials import Credential
from tocsin.domain.events import Event, UserId
from tocsin.settings import Secrets, Settings
from tocsin.settings import Store as StoreSettings
from tocsin.store import maintenance
from tocsin.store.audit_chain import Action, read
from tocsin.store.opening import open_store
from tocsin.store.ports import Store, StoreError
from tocsin.store.records import Result, State

OLD, NEW = (base64.b64encode(bytes([number] * 32)).decode() for number in (1, 2))
SOMEBODY = Actor(ActorKind.SYSTEM_USER, "root", "command line")


def settings(nodes: Nodes, key: str) -> Settings:
    return Settings(store=StoreSettings(url=nodes.url), secrets=Secrets(key=key))


async def in_every_state(store: Store) -> dict[str, Event]:
    """An event in each state, of users in different logs."""
    names = ("done", "dead", "parked", "dead in part", "claimed")
    events = {name: event_of(store, UserId(f"{n:08x}-3803-11e3-8475-0024e8f90cc0")) for n, name in enumerate(names)}
    await store.queue.append(list(events.values()))
    items = {item.event.id: item for item in await store.queue.claim(100)}
    item = {name: items[event.id] for name, event in events.items()}
    in_part = parked(item["dead in part"], store.now_ms() + 3600_000)
    in_part.attempts = [*in_part.attempts, *done(item["dead in part"], Result.REFUSED, "apns:b").attempts]
    await store.queue.settle(
        [
            done(item["done"]),
            done(item["dead"], Result.REFUSED),
            parked(item["parked"], store.now_ms() + 3600_000),
            in_part,
        ]
    )
    events["fresh"] = event_of(store, OWNER, urgent=True)
    await store.queue.append([events["fresh"]])
    return events


async def test_what_a_lost_key_encrypts_is_given_up_and_all_the_rest_is_used_again(nodes: Nodes) -> None:
    old, new = settings(nodes, OLD), settings(nodes, NEW)
    async with open_store(old, server=True) as store:
        await store.start()
        await store.credentials.put(Credential("apns", "39JSDKGJ38.de.cospace.app", b"secret"))
        await register(store, "kept")
        secret, _ = await store.access.create_session(OWNER, None)
        events = await in_every_state(store)
        running = await asyncio.to_thread(_refused, new, _key_id(old))
    assert "a server is running" in running
    assert "is not lost" in await asyncio.to_thread(_refused, old, _key_id(old))
    assert "does not need a master key" in await asyncio.to_thread(_refused, new, "0123456789ab")
    with pytest.raises(StoreError, match="give-up-key"):
        async with open_store(new, server=True):
            pass
    given_up = await asyncio.to_thread(maintenance.give_up_key, new, _key_id(old), SOMEBODY)
    assert (given_up.accounts, given_up.events) == (("39JSDKGJ38.de.cospace.app",), 5)
    async with open_store(new, server=True) as store:
        await store.start()
        for name, event in events.items():
            record = await store.log.record(event.id)
            assert record is not None, name
            assert (record.state, record.waiting) == (State.DONE, []), name
        assert (await store.queue.backlog()).events == 0
        assert await store.log.count_dead_letters() == 0
        assert await store.credentials.of("apns") == []
        assert await store.access.session(secret) is not None
        assert [device.token for device in (await store.registry.devices_of([OWNER]))[OWNER]] == ["kept"]
        entries = [read(one) for one in (await store.audit.page(1)).entries]
        assert [(one.action, one.subject) for one in entries] == [(Action.STORE_GIVE_UP_KEY, _key_id(old))]
        again = event_of(store, OWNER)
        await store.queue.append([again])
        assert ids([*await store.queue.claim(10), *await store.schedule.claim_due(EVERYTHING)]) == [again.id]


def _key_id(one: Settings) -> str:
    keys = maintenance.keys(one).read()
    assert keys is not None
    return keys.current.id


def _refused(one: Settings, key_id: str) -> str:
    with pytest.raises(StoreError) as refused:
        maintenance.give_up_key(one, key_id, SOMEBODY)
    return str(refused.value)
