"""What deliveries teach: written many at a time, bounded, and kept where it would be missed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tocsin.delivery import learning
from tocsin.delivery.learning import Learning
from tocsin.domain.devices import Address, Complaint, Device, DeviceToken
from tocsin.domain.events import UserId
from tocsin.domain.outcomes import Answer
from tocsin.domain.routes import Route
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


def device(token: str, complaint: Complaint | None = None) -> Device:
    return Device(OWNER, "apns", DeviceToken(token), Address(""), 1, 1, None, complaint)


async def test_no_more_is_held_than_the_bound_and_what_was_written_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_MOST_NOTED", 2)
    registry = Registry()
    taught = Learning(registry)  # type: ignore[arg-type]
    for token in "abc":
        taught.reached(device(token), 7)
    await taught.write_noted()
    assert [(one.device.token, one.success_ms) for one in registry.learned] == [("a", 7), ("b", 7)]
    taught.reached(device("c"), 8)
    await taught.write_noted()
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


ROUTE = Route("apns", "app", "lane", topic="topic")
NOT_FOR_TOPIC = Answer(400, "DeviceTokenNotForTopic")
DAY_MS = learning.NOTED_EVERY_MS


def said(since_ms: int, last_ms: int, topic: str = "topic") -> Complaint:
    return Complaint("400 DeviceTokenNotForTopic", since_ms, last_ms, "app", topic)


async def complaints_of(before: Complaint | None, *at_ms: int) -> list[Complaint | None]:
    """What is written where a provider complains at these times of a device with that record."""
    registry = Registry()
    taught = Learning(registry)  # type: ignore[arg-type]
    for now_ms in at_ms:
        taught.complained(device("a", before), ROUTE, NOT_FOR_TOPIC, now_ms)
    await taught.write_noted()
    await taught.write_noted()
    return [one.complaint for one in registry.learned]


async def test_the_first_complaint_is_written_once_and_repeated_ones_once_a_day() -> None:
    assert await complaints_of(None, 5, 6, 7) == [said(5, 5)]
    assert await complaints_of(said(5, 5), 6, 5 + DAY_MS) == []
    assert await complaints_of(said(5, 5), 6 + DAY_MS, 7 + DAY_MS) == [said(5, 6 + DAY_MS)]
    assert await complaints_of(said(5, 5 + DAY_MS), 3) == [], "the clock was set back"


async def test_a_complaint_about_another_topic_is_a_new_one() -> None:
    assert await complaints_of(said(5, 5, "other"), 6) == [said(6, 6)]


async def test_of_a_complaint_and_a_success_in_one_write_the_later_counts() -> None:
    registry = Registry()
    taught = Learning(registry)  # type: ignore[arg-type]
    taught.complained(device("a"), ROUTE, NOT_FOR_TOPIC, 5)
    taught.reached(device("a"), 6)
    taught.reached(device("b"), 5)
    taught.complained(device("b"), ROUTE, NOT_FOR_TOPIC, 6)
    await taught.write_noted()
    assert [(one.device.token, one.success_ms, one.complaint) for one in registry.learned] == [
        ("a", 6, None),
        ("b", 5, None),
        ("b", None, said(6, 6)),
    ]


async def test_no_more_complaints_are_held_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_MOST_NOTED", 2)
    registry = Registry()
    taught = Learning(registry)  # type: ignore[arg-type]
    for token in "abc":
        taught.complained(device(token), ROUTE, NOT_FOR_TOPIC, 7)
    await taught.write_noted()
    assert [one.device.token for one in registry.learned] == ["a", "b"]


async def test_what_could_not_be_noted_is_noted_the_next_time_but_no_complaint_of_who_was_reached_since() -> None:
    """A device that was reached again, which could not be noted, went into quarantine for its complaint."""
    registry = Registry()
    taught = Learning(registry)  # type: ignore[arg-type]
    taught.reached(device("a"), 7)
    taught.complained(device("b"), ROUTE, NOT_FOR_TOPIC, 7)
    taught.complained(device("c"), ROUTE, NOT_FOR_TOPIC, 7)
    registry.fails = True
    with pytest.raises(StoreUnavailable):
        await taught.write_noted()
    taught.reached(device("b"), 8)
    with pytest.raises(StoreUnavailable):
        await taught.write_noted()
    registry.fails = False
    await taught.write_noted()
    await taught.write_noted()
    assert [(one.device.token, one.success_ms, one.complaint) for one in registry.learned] == [
        ("a", 7, None),
        ("b", 8, None),
        ("c", None, said(7, 7)),
    ]
