"""A user is erased: nothing of it is left, nothing of it is delivered, and nobody else notices."""

from __future__ import annotations

import asyncio

from tests.contract.factories import Stores
from tests.contract.support import (
    ACCOUNT,
    EVERYTHING,
    LANE,
    OTHER_OWNER,
    OWNER,
    SAME_KEY,
    device_of,
    done,
    ids,
    make_event,
    parked,
    register,
    registration,
)
from tests.support.clocks import Clocks

from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import Event, UserId
from tocsin.store.ports import Store
from tocsin.store.records import AccessRevoked, DeadToken, Erased, Result, Signal, TokenDeleted


async def settled_events(store: Store, clocks: Clocks, owner: UserId) -> list[Event]:
    """An event in every state: done, dead, parked, claimed, fresh."""
    events = [make_event(clocks, owner=owner) for _ in range(5)]
    await store.queue.append(events[:4])
    items = {item.event.id: item for item in await store.queue.claim(100)}
    first, second, third, _ = (items[event.id] for event in events[:4])
    await store.queue.settle([done(first), done(second, Result.REFUSED), parked(third, clocks.now_ms)])
    await store.queue.append(events[4:])
    return events


async def fill(store: Store, clocks: Clocks, owner: UserId) -> list[Event]:
    """Something of everything that there can be of a user."""
    for token in ("one", "two", "dead"):
        await register(store, f"{token} of {owner}", owner=owner)
    dead = await device_of(store, f"dead of {owner}", owner=owner)
    await store.registry.remove_dead([DeadToken(dead, ACCOUNT, "Unregistered")], quarantine=True)
    await register(store, f"deleted of {owner}", owner=owner)
    await store.registry.delete(owner, "apns", DeviceToken(f"deleted of {owner}"))
    await store.access.create_session(owner, None)
    await store.pseudonyms.of(owner)
    return await settled_events(store, clocks, owner)


async def test_nothing_of_an_erased_user_is_left_and_all_of_the_others_is(store: Store, clocks: Clocks) -> None:
    other = await fill(store, clocks, OTHER_OWNER)
    own = await fill(store, clocks, OWNER)
    name, backlog = await store.pseudonyms.of(OWNER), await store.queue.backlog()
    erased = await store.users.erase(OWNER)
    assert erased == Erased(
        devices=2,
        removals=2,
        sessions=1,
        events=5,
        waiting=3,
        receipts=3,
        pseudonym=True,
        searched=erased.searched,
        left=(),
    )
    assert [await store.log.record(event.id) for event in own] == [None] * 5
    assert await store.registry.devices_of([OWNER]) == {}
    assert await store.registry.history(owner=OWNER) == []
    assert await store.access.sessions(OWNER) == []
    assert await store.pseudonyms.find(OWNER) is None
    assert await store.pseudonyms.of(OWNER) != name
    assert len((await store.registry.devices_of([OTHER_OWNER]))[OTHER_OWNER]) == 2
    assert len(await store.registry.history(owner=OTHER_OWNER)) == 2
    assert len(await store.access.sessions(OTHER_OWNER)) == 1
    assert None not in [await store.log.record(event.id) for event in other]
    assert (await store.queue.backlog()).events == backlog.events - 3
    assert [letter.event.id for letter in (await store.log.dead_letters(10)).letters] == [other[1].id]


async def test_what_waits_of_an_erased_user_is_never_given_out_again(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    own, other = await fill(store, clocks, OWNER), await fill(store, clocks, OTHER_OWNER)
    await store.users.erase(OWNER)
    due = await store.schedule.claim_due(EVERYTHING)
    assert ids(due) == [other[2].id]
    store = await stores.crash()
    given = {*ids(await store.queue.claim(100)), *ids(await store.schedule.claim_due(EVERYTHING))}
    assert given == {other[2].id, other[3].id, other[4].id}
    assert not given & {event.id for event in own}


async def test_what_is_out_of_an_erased_user_ends_without_a_trace(store: Store, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks) for _ in range(3)] + [make_event(clocks, owner=OTHER_OWNER)])
    items = await store.queue.claim(10)
    await store.users.erase(OWNER)
    settled = await store.queue.settle(
        [done(items[0]), parked(items[1], clocks.now_ms), done(items[2], Result.REFUSED), done(items[3])]
    )
    assert settled == [True] * 4
    assert await store.queue.backlog() == type(await store.queue.backlog())(0, 0)
    assert await store.schedule.claim_due({LANE: 10}) == []
    assert [await store.log.record(item.event.id) for item in items[:3]] == [None] * 3


async def test_numbers_of_erased_events_are_not_given_to_new_ones(store: Store, clocks: Clocks) -> None:
    await store.queue.append([make_event(clocks)])
    await store.users.erase(OWNER)
    new = make_event(clocks, owner=OTHER_OWNER)
    await store.queue.append([new])
    assert new.id in ids(await store.queue.claim(10))


async def test_everybody_is_told_that_the_user_is_gone(store: Store, clocks: Clocks) -> None:
    await fill(store, clocks, OWNER)
    told: list[Signal] = []
    store.signals.subscribe(told.append)
    await store.users.erase(OWNER)
    assert TokenDeleted(OWNER, "apns", DeviceToken(f"one of {OWNER}")) in told
    assert AccessRevoked() in told


async def test_a_command_erases_a_user_while_a_server_runs(stores: Stores, clocks: Clocks) -> None:
    server = await stores.open()
    secret, _ = await server.access.create_session(OWNER, None)
    assert await server.access.session(secret) is not None
    await fill(server, clocks, OWNER)
    told: list[Signal] = []
    server.signals.subscribe(told.append)
    command = await stores.open(server=False)
    erasing = asyncio.ensure_future(command.users.erase(OWNER))
    while not erasing.done():
        await stores.noticed(server)
        await asyncio.sleep(0.02)
    erased = await erasing
    await stores.noticed(server)
    assert (erased.left, erased.waiting, erased.sessions) == ((), 3, 2)
    assert TokenDeleted(OWNER, "apns", DeviceToken(f"two of {OWNER}")) in told
    assert await server.access.session(secret) is None
    assert await server.registry.devices_of([OWNER]) == {}
    assert (await server.queue.backlog()).events == 0


async def test_a_user_of_whom_nothing_is_known_is_erased_without_a_change(store: Store) -> None:
    erased = await store.users.erase(OWNER)
    assert (erased.devices, erased.events, erased.sessions, erased.pseudonym, erased.left) == (0, 0, 0, False, ())


async def test_a_token_that_another_user_has_too_stays_with_that_user(store: Store) -> None:
    for owner in (OWNER, OTHER_OWNER):
        await store.registry.add(registration("shared", owner=owner), 100)
    erased = await store.users.erase(OWNER)
    assert erased.left == ()
    assert [device.owner for device in await store.registry.find(DeviceToken("shared"))] == [OTHER_OWNER]


async def test_whoever_lies_beside_an_erased_user_is_not_touched(store: Store) -> None:
    for owner in SAME_KEY:
        await register(store, f"of {owner}", owner=owner)
    await store.users.erase(SAME_KEY[0])
    assert list(await store.registry.devices_of(SAME_KEY)) == [SAME_KEY[1]]
