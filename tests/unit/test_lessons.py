"""What deliveries teach: written many at a time, bounded, and kept where it would be missed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tocsin.delivery import lessons
from tocsin.delivery.lessons import Lessons
from tocsin.domain.devices import Device
from tocsin.domain.events import UserId
from tocsin.domain.lanes import Route
from tocsin.providers.base import Push
from tocsin.store.ports import Learned, StoreUnavailable

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
    return Device(OWNER, "apns", token, "39JSDKGJ38.de.cospace.app", False, None, 1)


async def test_no_more_is_held_than_the_bound_and_what_was_written_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "_MOST_REACHED", 2)
    registry = Registry()
    taught = Lessons(registry)  # type: ignore[arg-type]
    for token in "abc":
        taught.reached(device(token), 7)
    await taught.write_reached()
    assert [(one.token, one.success_ms) for one in registry.learned] == [("a", 7), ("b", 7)]
    taught.reached(device("c"), 8)
    await taught.write_reached()
    assert (registry.learned[-1].token, registry.learned[-1].success_ms) == ("c", 8)


async def test_a_route_that_could_not_be_written_is_written_the_next_time() -> None:
    registry = Registry()
    taught = Lessons(registry)  # type: ignore[arg-type]
    push = Push(None, device("a"), Route("apns:sandbox:39JSDKGJ38.de.cospace.app"), None, 0)  # type: ignore[arg-type]
    taught.route(push, 7)
    registry.fails = True
    with pytest.raises(StoreUnavailable):
        await taught.write_routes()
    registry.fails = False
    await taught.write_routes()
    await taught.write_routes()
    assert [(one.token, one.sandbox, one.success_ms) for one in registry.learned] == [("a", True, 7)]
