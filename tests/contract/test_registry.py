"""Who has which devices, and the safety of tokens."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from tests.contract.support import APPLICATION, OTHER_OWNER, OWNER, SAME_KEY, Clocks, SqliteStores, make_device

from tocsin.domain.devices import Device, DeviceToken, System
from tocsin.domain.events import UserId
from tocsin.store.opening import Store
from tocsin.store.ports import DeadToken, Learned

APNS = System.APNS


async def tokens_of(store: Store, owner: UserId = OWNER) -> list[str]:
    return [device.token for device in (await store.registry.devices_of([owner])).get(owner, [])]


async def register(store: Store, *devices: Device, max_tokens: int = 100) -> None:
    for device in devices:
        await store.registry.add(device, max_tokens)


def dead(token: str, *, before_us: int, system: System = APNS) -> DeadToken:
    return DeadToken(str(system), token, before_us, "410 Unregistered", APPLICATION)


async def test_a_registered_device_is_found_after_a_crash(stores: SqliteStores) -> None:
    store = await stores.open()
    device = Device(OWNER, "apns", "a", APPLICATION, True, "de.cospace.app.voip", 5)
    await register(store, device)
    store = await stores.crash()
    assert await store.registry.devices_of([OWNER]) == {OWNER: [device]}


async def test_devices_are_listed_in_order_of_registration(store: Store) -> None:
    await register(store, *(make_device(token, registered_us=at) for token, at in (("c", 1), ("a", 2), ("b", 3))))
    assert await tokens_of(store) == ["c", "a", "b"]


async def test_owners_without_devices_are_absent(store: Store) -> None:
    await register(store, make_device("a"))
    assert set(await store.registry.devices_of([OWNER, OTHER_OWNER])) == {OWNER}


async def test_owners_who_lie_at_the_same_place_of_the_table_have_each_their_own(stores: SqliteStores) -> None:
    store = await stores.open()
    one, other = SAME_KEY
    devices = [make_device(token, owner=owner, registered_us=n) for n, token in enumerate("ab") for owner in SAME_KEY]
    await register(store, *devices, max_tokens=2)
    await store.registry.learn([Learned(owner=one, system="apns", token="b", success_ms=7)])
    store = await stores.crash()
    assert await store.registry.devices_of([one]) == {one: [devices[0], replace(devices[2], last_success_ms=7)]}
    assert await store.registry.devices_of([other]) == {other: [devices[1], devices[3]]}
    assert await store.registry.delete(one, APNS, DeviceToken("b"))
    found = await store.registry.devices_of([other, one])
    assert found == {one: [devices[0]], other: [devices[1], devices[3]]}


async def test_look_ups_at_the_same_time_answer_each_its_own(store: Store) -> None:
    await register(store, make_device("a"), make_device("b", owner=OTHER_OWNER))
    own, other, none = await asyncio.gather(
        store.registry.devices_of([OWNER]), store.registry.devices_of([OTHER_OWNER]), store.registry.devices_of([])
    )
    assert (list(own), list(other), none) == ([OWNER], [OTHER_OWNER], {})


async def test_a_look_up_after_a_deletion_never_shows_the_device(store: Store) -> None:
    for n in range(20):
        await register(store, make_device("a", registered_us=n))
        before = asyncio.ensure_future(store.registry.devices_of([OWNER]))
        await store.registry.delete(OWNER, APNS, DeviceToken("a"))
        assert await tokens_of(store) == []
        await before


async def test_registering_again_replaces_and_counts_from_now(store: Store) -> None:
    await register(store, make_device("a", registered_us=1), make_device("b", registered_us=2))
    again = replace(make_device("a", registered_us=3), sandbox=True, apns_topic="x.y.voip")
    await register(store, again)
    assert (await store.registry.devices_of([OWNER]))[OWNER] == [make_device("b", registered_us=2), again]


async def test_registering_again_forgets_what_was_learned_of_the_old_registration(store: Store) -> None:
    await register(store, make_device("a"))
    await store.registry.learn([Learned(owner=OWNER, system="apns", token="a", sandbox=True, success_ms=7)])
    await register(store, make_device("a", registered_us=2_000_000))
    ((device,),) = (await store.registry.devices_of([OWNER])).values()
    assert (device.learned_sandbox, device.last_success_ms) == (None, None)


async def test_one_too_many_evicts_the_one_registered_longest_ago(store: Store) -> None:
    await register(store, *(make_device(f"{n}", registered_us=n) for n in range(3)))
    evicted = await store.registry.add(make_device("new", registered_us=9), 3)
    assert [device.token for device in evicted] == ["0"]
    assert await tokens_of(store) == ["1", "2", "new"]
    (removal,) = await store.registry.history(owner=OWNER)
    assert removal.device.token == "0"
    assert "evicted" in removal.reason


async def test_registering_again_evicts_nobody(store: Store) -> None:
    await register(store, *(make_device(f"{n}", registered_us=n) for n in range(3)))
    assert await store.registry.add(make_device("0", registered_us=9), 3) == []


async def test_a_clock_set_back_does_not_evict_the_device_being_registered(store: Store) -> None:
    await register(store, *(make_device(f"{n}", registered_us=100 + n) for n in range(3)))
    evicted = await store.registry.add(make_device("new", registered_us=1), 3)
    assert [device.token for device in evicted] == ["0"]
    assert "new" in await tokens_of(store)


async def test_a_deletion_touches_nobody_elses_registration_of_the_token(store: Store) -> None:
    await register(store, make_device("a"), make_device("a", owner=OTHER_OWNER))
    assert await store.registry.delete(OWNER, APNS, DeviceToken("a")) is True
    assert await tokens_of(store) == []
    assert await tokens_of(store, OTHER_OWNER) == ["a"]


async def test_a_deletion_of_what_is_not_there_says_so(store: Store) -> None:
    await register(store, make_device("a"))
    assert await store.registry.delete(OWNER, System.FCM, DeviceToken("a")) is False
    assert await store.registry.delete(OWNER, APNS, DeviceToken("A")) is False
    assert await tokens_of(store) == ["a"]


async def test_every_registration_of_a_token_is_found(store: Store) -> None:
    await register(store, make_device("a"), make_device("a", owner=OTHER_OWNER), make_device("b"))
    assert {device.owner for device in await store.registry.find(DeviceToken("a"))} == {OWNER, OTHER_OWNER}


# -- dead tokens -------------------------------------------------------------------------------------------------------


async def test_a_dead_token_goes_for_every_owner(store: Store) -> None:
    await register(store, make_device("a"), make_device("a", owner=OTHER_OWNER), make_device("b"))
    assert await store.registry.remove_dead([dead("a", before_us=2_000_000)]) == [set()]
    assert await tokens_of(store) == ["b"]
    assert await tokens_of(store, OTHER_OWNER) == []


async def test_a_token_registered_again_after_the_410_timestamp_survives(store: Store) -> None:
    await register(store, make_device("a", registered_us=10), make_device("a", owner=OTHER_OWNER, registered_us=30))
    assert await store.registry.remove_dead([dead("a", before_us=20)]) == [{OTHER_OWNER}]
    assert await tokens_of(store) == []
    assert await tokens_of(store, OTHER_OWNER) == ["a"]


async def test_a_token_registered_at_the_very_timestamp_survives(store: Store) -> None:
    await register(store, make_device("a", registered_us=20))
    assert await store.registry.remove_dead([dead("a", before_us=20)]) == [{OWNER}]


async def test_each_dead_token_has_an_answer_of_its_own(store: Store) -> None:
    await register(store, make_device("a", registered_us=30), make_device("b", registered_us=10))
    answers = await store.registry.remove_dead([dead(token, before_us=20) for token in ("b", "a", "never")])
    assert answers == [set(), {OWNER}, set()]


async def test_a_token_of_the_other_provider_is_another_token(store: Store) -> None:
    await register(store, make_device("a"), make_device("a", system=System.FCM))
    await store.registry.remove_dead([dead("a", before_us=2_000_000, system=System.FCM)])
    assert [device.system for device in (await store.registry.devices_of([OWNER]))[OWNER]] == ["apns"]


async def test_a_removed_token_is_in_the_history_with_time_and_reason(store: Store, clocks: Clocks) -> None:
    await register(store, make_device("a"))
    await store.registry.remove_dead([dead("a", before_us=2_000_000)])
    for found in (await store.registry.history(token=DeviceToken("a")), await store.registry.history(owner=OWNER)):
        (removal,) = found
        assert (removal.device, removal.removed_ms) == (make_device("a"), clocks.now_ms)
        assert (removal.reason, removal.quarantined) == ("410 Unregistered", False)
    assert await store.registry.history(owner=OTHER_OWNER) == []


# -- quarantine --------------------------------------------------------------------------------------------------------


async def quarantine(store: Store, *tokens: str) -> None:
    await register(store, *(make_device(token) for token in tokens))
    await store.registry.remove_dead([dead(token, before_us=2_000_000) for token in tokens], quarantine=True)


async def test_a_quarantined_token_gets_nothing_until_it_is_restored(store: Store) -> None:
    await quarantine(store, "a", "b")
    assert await tokens_of(store) == []
    assert [removal.quarantined for removal in await store.registry.history(owner=OWNER)] == [True, True]
    assert await store.registry.restore(application=APPLICATION) == 2
    assert sorted(await tokens_of(store)) == ["a", "b"]
    assert await store.registry.history(owner=OWNER) == []
    assert await store.registry.restore(application=APPLICATION) == 0


async def test_only_the_application_named_is_restored(store: Store) -> None:
    await quarantine(store, "a")
    assert await store.registry.restore(application="AAAAAAAAAA.other.app") == 0
    assert await tokens_of(store) == []


async def test_a_purged_quarantine_stays_in_the_history_and_is_not_restored_with_it(store: Store) -> None:
    await quarantine(store, "a", "b")
    assert await store.registry.purge_quarantine(APPLICATION) == 2
    assert await store.registry.restore(application=APPLICATION) == 0
    assert len(await store.registry.history(owner=OWNER)) == 2
    assert await store.registry.restore(token=DeviceToken("a"), quarantined_only=False) == 1
    assert await tokens_of(store) == ["a"]


async def test_a_token_registered_again_is_left_as_its_user_wants_it(store: Store) -> None:
    await quarantine(store, "a")
    again = replace(make_device("a", registered_us=5_000_000), sandbox=True)
    await register(store, again)
    assert await store.registry.restore(application=APPLICATION) == 0
    assert (await store.registry.devices_of([OWNER]))[OWNER] == [again]


async def test_a_token_deleted_by_its_user_does_not_come_back_from_quarantine(store: Store) -> None:
    await quarantine(store, "a")
    await store.registry.delete(OWNER, APNS, DeviceToken("a"))
    assert await store.registry.restore(application=APPLICATION) == 0
    assert await tokens_of(store) == []


async def test_of_several_removals_the_latest_registration_is_restored(store: Store) -> None:
    await quarantine(store, "a")
    latest = replace(make_device("a", registered_us=1_500_000), sandbox=True)
    await register(store, latest)
    await store.registry.remove_dead([dead("a", before_us=2_000_000)], quarantine=True)
    assert await store.registry.restore(application=APPLICATION) == 1
    assert (await store.registry.devices_of([OWNER]))[OWNER] == [latest]


async def test_a_restoration_names_what_it_restores(store: Store) -> None:
    with pytest.raises(ValueError, match="name a token or an application"):
        await store.registry.restore()


# -- what deliveries teach ---------------------------------------------------------------------------------------------


async def test_what_is_learned_stays_and_what_is_not_said_is_left(store: Store) -> None:
    await register(store, make_device("a"), make_device("b"))
    await store.registry.learn([Learned(owner=OWNER, system="apns", token="a", sandbox=True, success_ms=5)])
    await store.registry.learn([Learned(owner=OWNER, system="apns", token="a", project="p", field="fid")])
    devices = {device.token: device for device in (await store.registry.devices_of([OWNER]))[OWNER]}
    assert devices["a"] == replace(
        make_device("a"), learned_sandbox=True, learned_project="p", learned_field="fid", last_success_ms=5
    )
    assert devices["b"] == make_device("b")


async def test_what_is_learned_of_a_device_that_is_gone_is_forgotten(store: Store) -> None:
    await store.registry.learn([Learned(owner=OWNER, system="apns", token="a", sandbox=False)])
    assert await tokens_of(store) == []


async def test_learning_that_the_sandbox_was_wrong_is_not_taken_for_nothing(store: Store) -> None:
    await register(store, make_device("a"))
    await store.registry.learn([Learned(owner=OWNER, system="apns", token="a", sandbox=True)])
    await store.registry.learn([Learned(owner=OWNER, system="apns", token="a", sandbox=False)])
    ((device,),) = (await store.registry.devices_of([OWNER])).values()
    assert device.learned_sandbox is False


async def test_what_its_user_has_deleted_is_not_restored_whatever_became_of_the_token(store: Store) -> None:
    mine, theirs = make_device("a"), make_device("a", owner=OTHER_OWNER)
    for device in (mine, theirs):
        await store.registry.add(device, 100)
    await store.registry.delete(UserId(OTHER_OWNER), System.APNS, DeviceToken("a"))
    await store.registry.remove_dead([DeadToken("apns", "a", 10**18, "410 Unregistered", "app")])
    assert await store.registry.restore(token=DeviceToken("a"), quarantined_only=False) == 1
    assert [device.owner for device in await store.registry.find(DeviceToken("a"))] == [OWNER]
