"""What providers say of single devices, on which topics others are reached, and the quarantine that comes of it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.contract.factories import Stores
from tests.contract.support import ACCOUNT, DAY_MS, OTHER_OWNER, OWNER, TOKEN, device_of, register
from tests.support.clocks import Clocks

from tocsin.domain.devices import Address, Complaint, Device
from tocsin.domain.events import UserId
from tocsin.store.ports import Store
from tocsin.store.records import DeadToken, Learned, QuarantineChanged, Signal, TokenDeleted, TopicReached

TOPIC = "de.cospace.app"
SINCE_MS = 1_800_000_000_000
LATER_MS = SINCE_MS + 7 * DAY_MS


def complaint(since_ms: int = SINCE_MS, last_ms: int = LATER_MS, *, topic: str = TOPIC) -> Complaint:
    return Complaint("400 DeviceTokenNotForTopic", since_ms, last_ms, ACCOUNT, topic)


async def complained(store: Store, token: str, said: Complaint, *, owner: UserId = OWNER) -> Device:
    """A registration of which a provider has said that; as it is then."""
    device = await register(store, token, owner=owner)
    await store.registry.learn([Learned(device, complaint=said)])
    return await device_of(store, token, owner=owner)


async def reached(store: Store, at_ms: int, *, provider: str = "apns", account: str = ACCOUNT) -> None:
    await store.registry.note_topics([TopicReached(provider, account, TOPIC, at_ms)])


async def in_quarantine(store: Store) -> list[str]:
    return [one.device.token for one in await store.registry.history(quarantined_only=True)]


async def test_a_complaint_is_part_of_the_registration_and_outlives_a_crash(stores: Stores) -> None:
    store = await stores.open()
    device = await register(store, "a")
    assert device.complaint is None
    await store.registry.learn([Learned(device, complaint=complaint())])
    told = replace(device, complaint=complaint())
    assert await device_of(store, "a") == told
    store = await stores.crash()
    assert await store.registry.devices_of([OWNER]) == {OWNER: [told]}
    assert await store.registry.find(TOKEN) == [told]


async def test_a_complaint_ends_when_the_device_is_reached_by_whichever_route(store: Store) -> None:
    for learned in ({"success_ms": 5}, {"success_ms": 5, "address": Address("application=x&sandbox=true")}):
        device = await complained(store, "a", complaint())
        await store.registry.learn([Learned(device, **learned)])  # type: ignore[arg-type]
        assert (await device_of(store, "a")).complaint is None


async def test_a_complaint_stays_when_something_else_is_learned(store: Store) -> None:
    device = await complained(store, "a", complaint())
    await store.registry.learn([Learned(device, Address("application=y"))])
    now = await device_of(store, "a")
    assert (now.address, now.complaint) == ("application=y", complaint())


async def test_a_complaint_ends_with_the_registration(store: Store) -> None:
    before = await complained(store, "a", complaint())
    again = await register(store, "a")
    assert again.complaint is None
    # What is learned late is about the registration before.
    await store.registry.learn([Learned(before, complaint=complaint())])
    assert await device_of(store, "a") == again


async def test_a_complaint_is_about_one_users_registration_alone(store: Store) -> None:
    await register(store, "a", owner=OTHER_OWNER)
    await complained(store, "a", complaint())
    assert (await device_of(store, "a", owner=OTHER_OWNER)).complaint is None


async def test_the_topics_on_which_devices_were_reached_outlive_a_crash_and_the_last_note_counts(
    stores: Stores,
) -> None:
    store = await stores.open()
    assert await store.registry.topics() == []
    await reached(store, 7)
    await reached(store, 9)
    await reached(store, 3, provider="fcm")
    await reached(store, 8)  # the clock was set back
    store = await stores.crash()
    assert sorted(await store.registry.topics(), key=lambda one: one.provider) == [
        TopicReached("apns", ACCOUNT, TOPIC, 8),
        TopicReached("fcm", ACCOUNT, TOPIC, 3),
    ]


async def test_a_device_that_said_nothing_else_for_days_while_others_are_reached_goes_into_quarantine(
    store: Store,
) -> None:
    device = await complained(store, "a", complaint())
    await register(store, "good")
    await reached(store, SINCE_MS + 1)
    assert await store.registry.quarantine_complaining(7, 10) == [device]
    assert await store.registry.quarantine_complaining(7, 10) == []
    assert [one.token for one in (await store.registry.devices_of([OWNER]))[OWNER]] == ["good"]
    (removal,) = await store.registry.history(owner=OWNER)
    assert (removal.device, removal.quarantined, removal.account) == (device, True, ACCOUNT)
    assert removal.reason == "400 DeviceTokenNotForTopic for 7 days"
    assert removal.is_for_topic


async def test_the_quarantine_tells_devices_not_for_their_topic_from_those_that_a_fuse_has_put_there(
    store: Store,
) -> None:
    await complained(store, "a", complaint())
    await reached(store, SINCE_MS + 1)
    await store.registry.quarantine_complaining(7, 10)
    fused = [DeadToken(await register(store, token), ACCOUNT, "410 Unregistered") for token in ("b", "c")]
    await store.registry.remove_dead(fused, quarantine=True)
    other = DeadToken(await register(store, "d"), "another", "410 Unregistered")
    await store.registry.remove_dead([other], quarantine=True)
    held = {one.account: (one.tokens, one.for_topic) for one in await store.registry.quarantine()}
    assert held == {ACCOUNT: (3, 1), "another": (1, 0)}
    told = {one.device.token: one.is_for_topic for one in await store.registry.history(owner=OWNER)}
    assert told == {"a": True, "b": False, "c": False, "d": False}


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(complaint(last_ms=LATER_MS - 1), id="not for long enough"),
        pytest.param(complaint(topic=""), id="about no topic"),
        pytest.param(complaint(topic="de.cospace.other"), id="nobody else was reached on its topic"),
        pytest.param(complaint(SINCE_MS + 1, LATER_MS + 1), id="nobody else was reached since it began"),
        pytest.param(replace(complaint(), account="ABCDE12345.other"), id="others were reached in another application"),
    ],
)
async def test_a_device_stays_where_the_complaint_may_not_be_the_devices_fault(store: Store, said: Complaint) -> None:
    device = await complained(store, "a", said)
    await reached(store, SINCE_MS + 1)
    await reached(store, SINCE_MS + 1, account="another")
    await reached(store, LATER_MS + 10, provider="fcm")
    assert await store.registry.quarantine_complaining(7, 10) == []
    assert (await store.registry.devices_of([OWNER]))[OWNER] == [device]


async def test_a_device_that_was_reached_meanwhile_stays(store: Store) -> None:
    device = await complained(store, "a", complaint())
    await store.registry.learn([Learned(device, success_ms=LATER_MS)])
    await reached(store, LATER_MS)
    assert await store.registry.quarantine_complaining(7, 10) == []


async def test_another_users_registration_of_the_same_token_stays(store: Store) -> None:
    """It may be registered for the right topic there."""
    other = await register(store, "a", owner=OTHER_OWNER)
    await complained(store, "a", complaint())
    await reached(store, SINCE_MS + 1)
    assert len(await store.registry.quarantine_complaining(7, 10)) == 1
    assert await store.registry.devices_of([OWNER, OTHER_OWNER]) == {OTHER_OWNER: [other]}


async def test_not_more_go_into_quarantine_at_once_than_asked_for(store: Store) -> None:
    for number in range(5):
        await complained(store, f"{number}", complaint())
    await reached(store, SINCE_MS + 1)
    counts = [len(await store.registry.quarantine_complaining(7, 2)) for _ in range(4)]
    assert counts == [2, 2, 1, 0]
    assert sorted(await in_quarantine(store)) == ["0", "1", "2", "3", "4"]


async def test_what_is_released_is_back_and_its_complaint_begins_anew(store: Store) -> None:
    device = await complained(store, "a", complaint())
    await reached(store, SINCE_MS + 1)
    await store.registry.quarantine_complaining(7, 10)
    assert await store.registry.quarantined_accounts() == [("apns", ACCOUNT)]
    assert await store.registry.release_quarantine(ACCOUNT, 100) == 1
    back = await device_of(store, "a")
    assert back == replace(device, complaint=None, generation=back.generation)
    assert await store.registry.quarantine_complaining(7, 10) == []
    assert await store.registry.quarantined_accounts() == []


async def test_what_is_purged_is_removed_and_can_be_restored(store: Store) -> None:
    await complained(store, "a", complaint())
    await reached(store, SINCE_MS + 1)
    await store.registry.quarantine_complaining(7, 10)
    assert await store.registry.purge_quarantine(ACCOUNT) == 1
    assert await in_quarantine(store) == []
    assert await store.registry.restore("apns", TOKEN, 100) == 1


async def test_no_fuse_is_concerned(store: Store, clocks: Clocks) -> None:
    await complained(store, "a", complaint())
    await reached(store, SINCE_MS + 1)
    await store.registry.quarantine_complaining(7, 10)
    assert await store.registry.quarantined_accounts(by_fuse=True) == []
    dead = await register(store, "dead")
    await store.registry.remove_dead([DeadToken(dead, ACCOUNT, "410")], quarantine=True)
    assert await store.registry.quarantined_accounts(by_fuse=True) == [("apns", ACCOUNT)]
    await store.registry.release_quarantine(ACCOUNT, 100)
    assert await store.registry.quarantined_accounts(by_fuse=True) == []


async def test_its_pushes_stop_at_once(store: Store) -> None:
    await complained(store, "a", complaint())
    await reached(store, SINCE_MS + 1)
    told: list[Signal] = []
    store.signals.subscribe(told.append)
    await store.registry.quarantine_complaining(7, 10)
    assert told == [TokenDeleted(OWNER, "apns", TOKEN), QuarantineChanged(ACCOUNT)]
