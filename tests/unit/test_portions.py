"""How much of a claim is expanded and sent at a time."""

from __future__ import annotations

from typing import Any

from tests.support.line import apns_device, make_event

from tocsin.delivery.expanding import portions
from tocsin.store.records import Handle, Item


def item(targets: int | None = None, *, owner: str = "o", padding: int = 0) -> Item:
    keys = None if targets is None else tuple(f"apns:{number}" for number in range(targets))
    return Item(make_event(owner, padding=padding), Handle(), keys)


def sizes(found: list[Any]) -> list[int]:
    return [len(portion) for portion in found]


def test_a_claim_of_few_deliveries_is_one_portion() -> None:
    items = [item(1) for _ in range(10)]
    assert portions(items, {}, 10) == [items]


def test_a_portion_counts_the_targets_or_else_the_devices_of_the_owner() -> None:
    devices: Any = {"o": [apns_device() for _ in range(30)]}
    assert sizes(portions([item(30) for _ in range(4)], {}, 60)) == [2, 2]
    assert sizes(portions([item() for _ in range(4)], devices, 60)) == [2, 2]
    assert sizes(portions([item(owner="nobody") for _ in range(4)], devices, 60)) == [4]


def test_a_portion_is_bounded_by_its_content() -> None:
    assert sizes(portions([item(1, padding=400_000) for _ in range(5)], {}, 1000)) == [2, 2, 1]


def test_an_item_of_more_than_a_portion_is_one_by_itself() -> None:
    items = [item(1), item(500), item(1), item(1)]
    found = portions(items, {}, 10)
    assert sizes(found) == [1, 1, 2]
    assert [one for portion in found for one in portion] == items
