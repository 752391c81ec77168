"""Who has which devices, and the safety of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from msgspec.structs import replace
from tests.contract.factories import Stores
from tests.contract.support import (
    ACCOUNT,
    OTHER_OWNER,
    OWNER,
    SAME_KEY,
    TOKEN,
    device_of,
    make_event,
    register,
    registration,
)
from tests.support.clocks import Clocks

from tocsin.domain.devices import Address, Device, DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.ports import Store, UnknownCursor
from tocsin.store.records import Cursor, DeadToken, Learned

LATER = Address("application=x&sandbox=true")


async def tokens_of(store: Store, owner: UserId = OWNER) -> list[str]:
    return [device.token for device in (await store.registry.devices_of([owner])).get(owner, [])]


def dead(device: Device, *, before_us: int | None = None) -> DeadToken:
    return DeadToken(device, ACCOUNT, "410 Unregistered", before_us)


async def test_a_registered_device_is_found_after_a_crash(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    device = await register(store, "a", address='anything that its provider likes: é & "quotes"')
    assert device.registered_us == int(clocks.wall_s * 1e6)
    assert device.address == 'anything that its provider likes: é & "quotes"'
    store = await stores.crash()
    assert await store.registry.devices_of([OWNER]) == {OWNER: [device]}


async def test_devices_are_listed_in_order_of_registration_though_the_clock_stands_still(store: Store) -> None:
    for token in ("c", "a", "b"):
        await register(store, token)
    assert await tokens_of(store) == ["c", "a", "b"]


async def test_owners_without_devices_are_absent(store: Store) -> None:
    await register(store, "a")
    assert set(await store.registry.devices_of([OWNER, OTHER_OWNER])) == {OWNER}


async def test_owners_whose_keys_are_the_same_have_each_their_own_devices(stores: Stores) -> None:
    store = await stores.open()
    one, other = SAME_KEY
    devices = [await register(store, token, owner=owner, max_tokens=2) for token in "ab" for owner in SAME_KEY]
    await store.registry.learn([Learned(devices[2], success_ms=7)])
    store = await stores.crash()
    assert await store.registry.devices_of([one]) == {one: [devices[0], replace(devices[2], last_success_ms=7)]}
    assert await store.registry.devices_of([other]) == {other: [devices[1], devices[3]]}
    assert await store.registry.delete(one, "apns", DeviceToken("b"))
    found = await store.registry.devices_of([other, one])
    assert found == {one: [devices[0]], other: [devices[1], devices[3]]}


async def test_look_ups_at_the_same_time_answer_each_its_own(store: Store) -> None:
    await register(store, "a")
    await register(store, "b", owner=OTHER_OWNER)
    own, other, none = await asyncio.gather(
        store.registry.devices_of([OWNER]), store.registry.devices_of([OTHER_OWNER]), store.registry.devices_of([])
    )
    assert (list(own), list(other), none) == ([OWNER], [OTHER_OWNER], {})


async def test_a_look_up_after_a_deletion_never_shows_the_device(store: Store) -> None:
    for _ in range(20):
        await register(store, "a")
        before = asyncio.ensure_future(store.registry.devices_of([OWNER]))
        await store.registry.delete(OWNER, "apns", TOKEN)
        assert await tokens_of(store) == []
        await before


async def test_registering_again_replaces_and_counts_from_now(store: Store, clocks: Clocks) -> None:
    first = await register(store, "a")
    other = await register(store, "b")
    clocks.pass_time(1)
    again = await register(store, "a", address=LATER)
    assert (await store.registry.devices_of([OWNER]))[OWNER] == [other, again]
    assert (again.address, again.registered_us) == (LATER, int(clocks.wall_s * 1e6))
    assert again.generation != first.generation


async def test_registering_again_forgets_what_was_learned_of_the_old_registration(store: Store) -> None:
    device = await register(store, "a")
    await store.registry.learn([Learned(device, LATER, 7)])
    again = await register(store, "a")
    assert (again.address, again.last_success_ms) == (device.address, None)


async def test_every_registration_of_a_token_has_a_generation_of_its_own(store: Store) -> None:
    generations = set()
    for _ in range(50):
        generations.add((await register(store, "a")).generation)
        await store.registry.delete(OWNER, "apns", TOKEN)
    assert len(generations) == 50


async def test_one_too_many_evicts_the_one_registered_longest_ago(store: Store) -> None:
    for n in range(3):
        await register(store, f"{n}")
    evicted = await store.registry.add(registration("new"), 3)
    assert [device.token for device in evicted] == ["0"]
    assert await tokens_of(store) == ["1", "2", "new"]
    (removal,) = await store.registry.history(owner=OWNER)
    assert removal.device.token == "0"
    assert "evicted" in removal.reason


async def test_registering_again_evicts_nobody(store: Store) -> None:
    for n in range(3):
        await register(store, f"{n}")
    assert await store.registry.add(registration("0"), 3) == []


async def test_a_clock_set_back_does_not_evict_the_device_being_registered(stores: Stores, clocks: Clocks) -> None:
    store = await stores.open()
    for n in range(3):
        await register(store, f"{n}")
    clocks.set_wall_clock(by_s=-3600)
    store = await stores.crash()
    evicted = await store.registry.add(registration("new"), 3)
    assert [device.token for device in evicted] == ["0"]
    assert "new" in await tokens_of(store)


async def test_a_deletion_touches_nobody_elses_registration_of_the_token(store: Store) -> None:
    await register(store, "a")
    await register(store, "a", owner=OTHER_OWNER)
    assert await store.registry.delete(OWNER, "apns", TOKEN) is True
    assert await tokens_of(store) == []
    assert await tokens_of(store, OTHER_OWNER) == ["a"]


async def test_a_deletion_of_what_is_not_there_says_so(store: Store) -> None:
    await register(store, "a")
    assert await store.registry.delete(OWNER, "fcm", TOKEN) is False
    assert await store.registry.delete(OWNER, "apns", DeviceToken("A")) is False
    assert await tokens_of(store) == ["a"]


async def test_every_registration_of_a_token_is_found(store: Store) -> None:
    for token, owner in (("a", OWNER), ("a", OTHER_OWNER), ("b", OWNER)):
        await register(store, token, owner=owner)
    assert {device.owner for device in await store.registry.find(TOKEN)} == {OWNER, OTHER_OWNER}


# -- dead tokens -------------------------------------------------------------------------------------------------------


async def test_a_token_that_died_after_it_was_registered_is_removed_for_every_owner(store: Store) -> None:
    device = await register(store, "a")
    other = await register(store, "a", owner=OTHER_OWNER)
    await register(store, "b")
    assert await store.registry.remove_dead([dead(device, before_us=other.registered_us + 1)]) == [False]
    assert await tokens_of(store) == ["b"]
    assert await tokens_of(store, OTHER_OWNER) == []


async def test_a_token_registered_again_after_the_410_timestamp_survives(store: Store, clocks: Clocks) -> None:
    device = await register(store, "a")
    clocks.pass_time(1)
    died_us = int(clocks.wall_s * 1e6)
    clocks.pass_time(1)
    other = await register(store, "a", owner=OTHER_OWNER)
    assert await store.registry.remove_dead([dead(other, before_us=died_us)]) == [True]
    assert await tokens_of(store) == []
    assert await tokens_of(store, OTHER_OWNER) == ["a"]
    assert await store.registry.remove_dead([dead(device, before_us=died_us)]) == [False]


async def test_a_token_registered_at_the_very_timestamp_survives(store: Store) -> None:
    device = await register(store, "a")
    assert await store.registry.remove_dead([dead(device, before_us=device.registered_us)]) == [True]


async def test_without_a_timestamp_the_very_registration_that_was_read_is_removed(store: Store) -> None:
    device = await register(store, "a")
    assert await store.registry.remove_dead([dead(device)]) == [False]
    assert await tokens_of(store) == []


async def test_without_a_timestamp_a_token_registered_again_meanwhile_survives(store: Store) -> None:
    read = await register(store, "a")
    await register(store, "a")
    assert await store.registry.remove_dead([dead(read)]) == [True]
    assert await tokens_of(store) == ["a"]


async def test_without_a_timestamp_older_registrations_of_the_token_go_and_younger_stay(store: Store) -> None:
    third = UserId("77777777-3803-11e3-8475-0024e8f90cc0")
    await register(store, "a")
    read = await register(store, "a", owner=OTHER_OWNER)
    await register(store, "a", owner=third)
    assert await store.registry.remove_dead([dead(read)]) == [False]
    assert [device.owner for device in await store.registry.find(TOKEN)] == [third]


async def test_each_dead_token_has_an_answer_of_its_own(store: Store, clocks: Clocks) -> None:
    old = await register(store, "b")
    clocks.pass_time(1)
    young = await register(store, "a")
    never = replace(old, token=DeviceToken("never"))
    before_us = young.registered_us
    answers = await store.registry.remove_dead([dead(one, before_us=before_us) for one in (old, young, never)])
    assert answers == [False, True, False]


async def test_a_token_of_the_other_provider_is_another_token(store: Store) -> None:
    await register(store, "a")
    other = await register(store, "a", provider="fcm")
    await store.registry.remove_dead([dead(other)])
    assert [device.provider for device in (await store.registry.devices_of([OWNER]))[OWNER]] == ["apns"]


async def test_a_removed_token_is_in_the_history_with_time_and_reason(store: Store, clocks: Clocks) -> None:
    device = await register(store, "a")
    await store.registry.remove_dead([dead(device)])
    for found in (await store.registry.history(token=TOKEN), await store.registry.history(owner=OWNER)):
        (removal,) = found
        assert (removal.device, removal.removed_ms) == (device, clocks.now_ms)
        assert (removal.reason, removal.quarantined, removal.account) == ("410 Unregistered", False, ACCOUNT)
    assert await store.registry.history(owner=OTHER_OWNER) == []


# -- quarantine --------------------------------------------------------------------------------------------------------


async def quarantine(store: Store, *tokens: str) -> list[Device]:
    devices = [await register(store, token) for token in tokens]
    await store.registry.remove_dead([dead(device) for device in devices], quarantine=True)
    return devices


async def test_a_quarantined_token_gets_nothing_until_it_is_released(store: Store, clocks: Clocks) -> None:
    await quarantine(store, "a", "b")
    assert await tokens_of(store) == []
    assert [removal.quarantined for removal in await store.registry.history(owner=OWNER)] == [True, True]
    (held,) = await store.registry.quarantine()
    assert (held.provider, held.account, held.tokens, held.oldest_ms) == ("apns", ACCOUNT, 2, clocks.now_ms)
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 2
    assert sorted(await tokens_of(store)) == ["a", "b"]
    assert await store.registry.history(owner=OWNER) == []
    assert await store.registry.quarantine() == []
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 0


async def test_a_restored_registration_is_a_new_one_of_what_was_before(store: Store) -> None:
    """What was read before the removal says nothing of it any more."""
    (before,) = await quarantine(store, "a")
    await store.registry.release_quarantine(ACCOUNT, 100)
    after = await device_of(store, "a")
    assert replace(after, generation=before.generation) == before
    assert after.generation != before.generation
    assert await store.registry.remove_dead([dead(before)]) == [True]


async def test_only_the_account_named_is_released(store: Store) -> None:
    await quarantine(store, "a")
    assert await store.registry.release_quarantine("AAAAAAAAAA.other.app", 100) == 0
    assert await tokens_of(store) == []


async def test_a_purged_quarantine_stays_in_the_history_and_is_not_released(store: Store) -> None:
    await quarantine(store, "a", "b")
    assert await store.registry.purge_quarantine(ACCOUNT) == 2
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 0
    assert len(await store.registry.history(owner=OWNER)) == 2
    assert await store.registry.restore("apns", TOKEN, 100) == 1
    assert await tokens_of(store) == ["a"]


async def test_a_token_registered_again_is_left_as_its_user_wants_it(store: Store) -> None:
    await quarantine(store, "a")
    again = await register(store, "a", address=LATER)
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 0
    assert (await store.registry.devices_of([OWNER]))[OWNER] == [again]


async def test_a_token_deleted_by_its_user_does_not_come_back_from_quarantine(store: Store) -> None:
    await quarantine(store, "a")
    await store.registry.delete(OWNER, "apns", TOKEN)
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 0
    assert await tokens_of(store) == []


async def test_of_several_removals_the_latest_registration_is_restored(store: Store) -> None:
    await quarantine(store, "a")
    latest = await register(store, "a", address=LATER)
    await store.registry.remove_dead([dead(latest)], quarantine=True)
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 1
    assert (await device_of(store, "a")).address == LATER


async def lose_by_a_verdict(store: Store) -> None:
    await store.registry.remove_dead([dead(await device_of(store, "a"))])


async def lose_by_the_operator(store: Store) -> None:
    await store.registry.delete(OWNER, "apns", TOKEN, by_operator=True)


async def lose_by_eviction(store: Store) -> None:
    await register(store, "another", max_tokens=1)


async def lose_by_a_quarantine(store: Store) -> None:
    await store.registry.remove_dead([dead(await device_of(store, "a"))], quarantine=True)


async def lose_by_a_purge(store: Store) -> None:
    await lose_by_a_quarantine(store)
    await store.registry.purge_quarantine(ACCOUNT)


WAYS_TO_LOSE = [lose_by_a_verdict, lose_by_the_operator, lose_by_eviction, lose_by_a_quarantine, lose_by_a_purge]


@pytest.mark.parametrize("lose", WAYS_TO_LOSE)
async def test_what_was_lost_otherwise_comes_back(store: Store, lose: Callable[[Store], Awaitable[None]]) -> None:
    before = await register(store, "a")
    await lose(store)
    assert await store.registry.restore("apns", TOKEN, 100) == 1
    back = await device_of(store, "a")
    assert replace(back, generation=before.generation) == before


@pytest.mark.parametrize("lose", WAYS_TO_LOSE)
async def test_what_its_user_has_deleted_does_not_come_back_though_it_was_lost_before(
    store: Store, lose: Callable[[Store], Awaitable[None]]
) -> None:
    await register(store, "a")
    await lose(store)
    assert await store.registry.delete(OWNER, "apns", TOKEN) is False
    assert await store.registry.restore("apns", TOKEN, 100) == 0
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 0
    assert "a" not in await tokens_of(store)
    removal = (await store.registry.history(token=TOKEN))[-1]
    assert removal.reason.endswith("deleted by its user")
    assert removal.quarantined is False


@pytest.mark.parametrize("lose", WAYS_TO_LOSE)
async def test_what_its_user_has_deleted_and_registered_again_and_lost_comes_back_as_it_was_last(
    store: Store, lose: Callable[[Store], Awaitable[None]]
) -> None:
    await register(store, "a")
    await lose(store)
    await store.registry.delete(OWNER, "apns", TOKEN)
    await register(store, "a", address=LATER)
    await lose(store)
    assert await store.registry.restore("apns", TOKEN, 100) == 1
    assert (await device_of(store, "a")).address == LATER
    await store.registry.delete(OWNER, "apns", TOKEN)
    assert await store.registry.restore("apns", TOKEN, 100) == 0


async def test_what_the_operator_removes_out_of_quarantine_can_still_be_restored(store: Store) -> None:
    await quarantine(store, "a")
    await store.registry.delete(OWNER, "apns", TOKEN, by_operator=True)
    assert await store.registry.quarantine() == []
    assert await store.registry.restore("apns", TOKEN, 100) == 1


async def test_nothing_is_restored_beyond_what_a_user_may_register(store: Store) -> None:
    await register(store, "a")
    await register(store, "a", owner=OTHER_OWNER)
    await lose_by_a_verdict(store)
    await store.registry.delete(OTHER_OWNER, "apns", TOKEN, by_operator=True)
    for token in ("b", "c"):
        await register(store, token)
    assert await store.registry.restore("apns", TOKEN, 2) == 1, "the other user has room"
    assert await tokens_of(store) == ["b", "c"]
    assert await tokens_of(store, OTHER_OWNER) == ["a"]
    await store.registry.delete(OWNER, "apns", DeviceToken("b"))
    assert await store.registry.restore("apns", TOKEN, 2) == 1, "the removal that brought nothing back is kept"
    assert sorted(await tokens_of(store)) == ["a", "c"]


async def test_nothing_is_released_beyond_what_a_user_may_register(store: Store) -> None:
    await quarantine(store, "a", "b", "c")
    await register(store, "d")
    assert await store.registry.release_quarantine(ACCOUNT, 2) == 1
    assert len(await tokens_of(store)) == 2
    assert await store.registry.quarantine() == [], "the operator has decided"
    assert len(await store.registry.history(owner=OWNER)) == 2


async def test_a_restore_that_restores_nothing_forgets_nothing(store: Store) -> None:
    first = await register(store, "a")
    await lose_by_a_verdict(store)
    again = await register(store, "a", address=LATER)
    assert await store.registry.restore("apns", TOKEN, 100) == 0
    assert (await store.registry.devices_of([OWNER]))[OWNER] == [again]
    (removal,) = await store.registry.history(token=TOKEN)
    assert removal.device == first


async def test_a_release_does_not_undo_what_was_lost_after_the_quarantine(store: Store) -> None:
    await quarantine(store, "a")
    await register(store, "a", address=LATER)
    await lose_by_a_verdict(store)
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 0
    assert await store.registry.quarantine() == []
    assert await tokens_of(store) == []
    assert await store.registry.restore("apns", TOKEN, 100) == 1
    assert (await device_of(store, "a")).address == LATER


async def test_only_the_provider_named_gets_its_token_back(store: Store) -> None:
    for provider in ("apns", "fcm"):
        await register(store, "a", provider=provider)
        await store.registry.delete(OWNER, provider, TOKEN, by_operator=True)
    assert await store.registry.restore("fcm", TOKEN, 100) == 1
    assert [device.provider for device in (await store.registry.devices_of([OWNER]))[OWNER]] == ["fcm"]


async def test_what_its_user_has_deleted_is_not_restored_whatever_became_of_the_token(store: Store) -> None:
    mine = await register(store, "a")
    await register(store, "a", owner=OTHER_OWNER)
    await store.registry.delete(OTHER_OWNER, "apns", TOKEN)
    await store.registry.remove_dead([dead(mine)])
    assert await store.registry.restore("apns", TOKEN, 100) == 1
    assert [device.owner for device in await store.registry.find(TOKEN)] == [OWNER]


MANY = 3000
"""More than any store takes in one step."""
MANY_OWNERS = [*SAME_KEY, *(UserId(f"{n:08d}-3803-11e3-8475-0024e8f90cc0") for n in range(100))]


async def quarantine_many(store: Store) -> set[tuple[str, str]]:
    """Of owners with some tokens each; returns whose they are."""
    registry = store.registry
    new = [registration(f"{n}", owner=MANY_OWNERS[n % len(MANY_OWNERS)]) for n in range(MANY)]
    await asyncio.gather(*(registry.add(one, 100) for one in new))
    devices = [device for own in (await registry.devices_of(MANY_OWNERS)).values() for device in own]
    await registry.remove_dead([dead(device) for device in devices], quarantine=True)
    assert await registered(store) == set()
    return {(one.owner, one.token) for one in new}


async def registered(store: Store) -> set[tuple[str, str]]:
    devices = await store.registry.devices_of(MANY_OWNERS)
    return {(device.owner, device.token) for own in devices.values() for device in own}


def leave(store: Store, action: str) -> Coroutine[Any, Any, int]:
    registry = store.registry
    return registry.release_quarantine(ACCOUNT, 100) if action == "release" else registry.purge_quarantine(ACCOUNT)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["release", "purge"])
async def test_what_is_appended_while_many_leave_the_quarantine_is_accepted_before_all_have(
    store: Store, clocks: Clocks, action: str
) -> None:
    """A release of 450,000 was one transaction: events were answered 503 after six seconds."""
    registry = store.registry
    tokens = await quarantine_many(store)
    acting = asyncio.ensure_future(leave(store, action))
    left = set()
    while not acting.done():
        await store.queue.append([make_event(clocks)])
        left.add(sum(held.tokens for held in await registry.quarantine()))
    assert len(left - {0, MANY}) > 1
    assert await acting == MANY
    assert await registry.quarantine() == []
    assert await registered(store) == (tokens if action == "release" else set())
    assert len(await registry.history(token=TOKEN)) == 0
    assert len(await registry.history(token=DeviceToken("17"))) == (0 if action == "release" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["release", "purge"])
async def test_a_release_that_was_interrupted_goes_on_when_it_is_called_again(stores: Stores, action: str) -> None:
    store = await stores.open()
    tokens = await quarantine_many(store)

    acting = asyncio.ensure_future(leave(store, action))
    while (await store.registry.quarantine())[0].tokens == MANY:
        await asyncio.sleep(0)
    acting.cancel()
    store = await stores.crash()
    (held,) = await store.registry.quarantine()
    assert 0 < held.tokens < MANY
    assert await leave(store, action) == held.tokens
    assert await store.registry.quarantine() == []
    assert await registered(store) == (tokens if action == "release" else set())


@pytest.mark.slow
async def test_what_comes_into_quarantine_during_a_release_stays(store: Store) -> None:
    """The operator has decided about what was there."""
    await quarantine_many(store)
    releasing = asyncio.ensure_future(store.registry.release_quarantine(ACCOUNT, 100))
    later = await register(store, "later")
    await store.registry.remove_dead([dead(later)], quarantine=True)
    assert not releasing.done()
    assert await releasing == MANY
    (held,) = await store.registry.quarantine()
    assert held.tokens == 1
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 1


async def test_what_does_not_come_back_from_quarantine_stays_in_the_history(store: Store) -> None:
    await quarantine(store, "a")
    await register(store, "a", address=LATER)
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 0
    (removal,) = await store.registry.history(token=TOKEN)
    assert not removal.quarantined
    assert await store.registry.quarantine() == []


async def test_the_accounts_with_anything_in_quarantine_are_told(store: Store) -> None:
    assert await store.registry.quarantined_accounts() == []
    for provider, account, tokens in (("apns", "b", "12"), ("fcm", "a", "3"), ("apns", "a", "456")):
        devices = [await register(store, token, provider=provider) for token in tokens]
        await store.registry.remove_dead([DeadToken(one, account, "410") for one in devices], quarantine=True)
    assert sorted(await store.registry.quarantined_accounts()) == [("apns", "a"), ("apns", "b"), ("fcm", "a")]
    assert await store.registry.release_quarantine("a", 100) == 4
    assert await store.registry.quarantined_accounts() == [("apns", "b")]
    assert await store.registry.purge_quarantine("b") == 2
    assert await store.registry.quarantined_accounts() == []


# -- what deliveries teach ---------------------------------------------------------------------------------------------


async def test_what_is_learned_stays_and_what_is_not_said_is_left(store: Store) -> None:
    device, other = await register(store, "a"), await register(store, "b")
    await store.registry.learn([Learned(device, LATER, 5)])
    await store.registry.learn([Learned(device, None, 6)])
    await store.registry.learn([Learned(device, Address("application=y"))])
    devices = {one.token: one for one in (await store.registry.devices_of([OWNER]))[OWNER]}
    assert devices["a"] == replace(device, address=Address("application=y"), last_success_ms=6)
    assert devices["b"] == other


async def test_what_is_learned_of_a_device_that_is_gone_is_forgotten(store: Store) -> None:
    device = await register(store, "a")
    await store.registry.delete(OWNER, "apns", TOKEN)
    await store.registry.learn([Learned(device, LATER)])
    assert await tokens_of(store) == []


async def test_what_is_learned_of_a_registration_says_nothing_of_the_next_one(store: Store) -> None:
    read = await register(store, "a")
    again = await register(store, "a")
    await store.registry.learn([Learned(read, LATER, 7)])
    assert (await store.registry.devices_of([OWNER]))[OWNER] == [again]


async def test_many_are_registered_in_their_order_and_as_one_after_the_other(store: Store) -> None:
    await register(store, "old")
    many = [
        registration("a"),
        registration("b", owner=OTHER_OWNER),
        registration("c"),
        registration("a", address="new"),
    ]
    evicted = await store.registry.add_many(many, 2)
    assert [device.token for device in evicted] == ["old"]
    assert await tokens_of(store) == ["c", "a"]
    assert (await device_of(store, "a")).address == "new"
    assert await tokens_of(store, OTHER_OWNER) == ["b"]


async def test_many_are_registered_durably(stores: Stores) -> None:
    store = await stores.open()
    await store.registry.add_many([registration(str(number)) for number in range(50)], 100)
    store = await stores.crash()
    assert await tokens_of(store) == [str(number) for number in range(50)]


async def test_pages_hold_every_device_once(store: Store) -> None:
    owners = [OWNER, OTHER_OWNER, *SAME_KEY]
    for number in range(25):
        await register(store, str(number), owner=owners[number % len(owners)], provider=("apns", "fcm")[number % 2])
    found: list[Device] = []
    page = await store.registry.page(10)
    assert len(page.devices) == 10
    found += page.devices
    # What comes and goes between two pages moves none of the others.
    await store.registry.delete(found[0].owner, found[0].provider, found[0].token)
    await register(store, "late")
    while page.next is not None:
        page = await store.registry.page(10, start=page.next)
        found += page.devices
    seen = [device.token for device in found if device.token != "late"]
    assert sorted(seen, key=int) == [str(number) for number in range(25)]


async def test_a_page_of_nothing_is_empty_and_the_last(store: Store) -> None:
    page = await store.registry.page(10)
    assert (page.devices, page.next) == ([], None)


@pytest.mark.parametrize("cursor", ["", "x", "-1", "9" * 40, "1.5"])
async def test_a_page_begins_only_where_the_store_has_said(store: Store, cursor: str) -> None:
    with pytest.raises(UnknownCursor):
        await store.registry.page(10, start=Cursor(cursor))
