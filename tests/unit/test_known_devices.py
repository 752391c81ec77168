"""The devices held in memory are those in the table: as many as there is room for, and nothing that was changed."""

from __future__ import annotations

from tests.contract.support import OTHER_OWNER, OWNER

from tocsin.domain.devices import Address, Device, DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.known import KnownDevices

THIRD = UserId("77777777-3803-11e3-8475-0024e8f90cc0")


def devices(owner: UserId, token: str = "a", provider: str = "apns") -> list[Device]:
    return [Device(owner, provider, DeviceToken(token), Address("application=x"), 1_000_000, 1)]


def knows(most_bytes: int = 1 << 20) -> KnownDevices:
    """Keeps every look-up, also when it is full."""
    return KnownDevices(most_bytes, random=lambda: 0.0)


def look_up(known: KnownDevices, *owners: UserId, token: str = "a") -> None:
    known.look_up_ends(known.look_up_begins(), owners, {owner: devices(owner, token) for owner in owners})


def unknown(known: KnownDevices, *owners: UserId) -> list[UserId]:
    return known.find(owners)[1]


def test_what_was_looked_up_is_known_and_so_is_who_has_no_device() -> None:
    known = knows()
    known.look_up_ends(known.look_up_begins(), [OWNER, OTHER_OWNER], {OWNER: devices(OWNER)})
    assert known.find([OWNER, OTHER_OWNER, THIRD]) == ({OWNER: devices(OWNER)}, [THIRD])


def test_the_one_least_recently_asked_for_makes_room() -> None:
    known = knows(most_bytes=900)
    look_up(known, OWNER, OTHER_OWNER)
    known.find([OWNER])
    look_up(known, THIRD)
    assert unknown(known, OWNER, OTHER_OWNER, THIRD) == [OTHER_OWNER]


def test_long_tokens_take_more_room_than_short_ones() -> None:
    known = knows(most_bytes=5000)
    look_up(known, OWNER, token="a" * 4096)
    look_up(known, OTHER_OWNER, token="b" * 4096)
    assert unknown(known, OWNER, OTHER_OWNER) == [OWNER]
    look_up(known, OWNER, THIRD)
    assert unknown(known, OWNER, OTHER_OWNER, THIRD) == [OTHER_OWNER]


def test_with_no_room_left_most_look_ups_are_not_kept_and_push_nobody_out() -> None:
    numbers = iter([0.5, 0.01])
    known = KnownDevices(most_bytes=900, random=lambda: next(numbers))
    look_up(known, OWNER, OTHER_OWNER, THIRD)
    assert unknown(known, OWNER, OTHER_OWNER, THIRD) == [OWNER]
    look_up(known, OWNER)
    assert unknown(known, OWNER, OTHER_OWNER, THIRD) == [OWNER]
    look_up(known, OWNER)
    assert unknown(known, OWNER, OTHER_OWNER, THIRD) == [OTHER_OWNER]


def test_what_was_forgotten_leaves_its_room() -> None:
    known = knows(most_bytes=900)
    for _ in range(10):
        look_up(known, OWNER, OTHER_OWNER)
        assert unknown(known, OWNER, OTHER_OWNER) == []
        known.forget([OWNER])
        known.forget_all()


def test_what_was_changed_is_forgotten_and_nothing_else() -> None:
    known = knows()
    look_up(known, OWNER, OTHER_OWNER)
    known.forget([OWNER, THIRD])
    assert unknown(known, OWNER, OTHER_OWNER) == [OWNER]


def test_what_was_changed_while_it_was_looked_up_is_not_remembered() -> None:
    known = knows()
    since = known.look_up_begins()
    known.forget([OWNER])
    known.look_up_ends(since, [OWNER, OTHER_OWNER], {OWNER: devices(OWNER)})
    assert unknown(known, OWNER, OTHER_OWNER) == [OWNER]
    look_up(known, OWNER)
    assert unknown(known, OWNER) == []


def test_a_change_is_not_forgotten_by_a_look_up_that_ended_beside_it() -> None:
    known = knows()
    since = known.look_up_begins()
    other = known.look_up_begins()
    known.forget([OWNER])
    known.look_up_ends(other, [OWNER], None)
    known.look_up_ends(since, [OWNER], {OWNER: devices(OWNER)})
    assert unknown(known, OWNER) == [OWNER]


def test_when_all_is_forgotten_so_is_what_is_being_looked_up() -> None:
    known = knows()
    look_up(known, OWNER)
    since = known.look_up_begins()
    known.forget_all()
    known.look_up_ends(since, [OTHER_OWNER], {OTHER_OWNER: devices(OTHER_OWNER, "b", "fcm")})
    assert unknown(known, OWNER, OTHER_OWNER) == [OWNER, OTHER_OWNER]
