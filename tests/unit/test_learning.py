"""What deliveries teach: written many at a time, bounded, and kept where it would be missed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tocsin.delivery import learning
from tocsin.delivery.learning import Learning
from tocsin.domain.devices import Address, Device, DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Learned

OWNER = UserId("00000000-0000-4000-8000-000000000001")


class Registry:
    def __init__(self) -> None:
        self.fails = False
        self.learned: list[Learned] = []

    async def learn(self, learned: Sequence[Learned]) -> None:
        if self.fails:
            raise StoreUnavailable("the disk is full")
        self.learned += learned


def device(token: str) -> Device:
    return Device(OWNER, "apns", DeviceToken(token), Address(""), 1, 1)


async def test_no_more_is_held_than_the_bound_and_what_was_written_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_MOST_REACHED", 2)
    registry = Registry()
    taught = Learning(registry)  # type: ignore[arg-type]
    for token in "abc":
        taught.reached(device(token), 7)
    await taught.write_reached()
    assert [(one.device.token, one.success_ms) for one in registry.learned] == [("a", 7), ("b", 7)]
    taught.reached(device("c"), 8)
    await taught.write_reached()
    assert (registry.learned[-1].device.token, registry.learned[-1].success_ms) == ("c", 8)


async def test_an_address_that_could_not_be_written_is_written_the_next_time() -> None:
    registry = Registry()
    taught = Learning(registry)  # type: ignore[arg-type]
    taught.address(device("a"), Address("elsewhere"), 7)
    registry.fails = True
    with pytest.raises(StoreUnavailable):
        await taught.write_addresses()
    registry.fails = False
    await taught.write_addresses()
    await taught.write_addresses()
    assert [(one.device.token, one.address, one.success_ms) for one in registry.learned] == [("a", "elsewhere", 7)]
