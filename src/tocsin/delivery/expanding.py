"""From items and devices to deliveries: which devices an event goes to, and by which lane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tocsin.delivery.failure_log import Failed
from tocsin.delivery.memory import DELIVERY_BYTES
from tocsin.delivery.open_items import NEVER, Delivery, OpenItem
from tocsin.delivery.receipts import Receipts
from tocsin.domain.devices import Device
from tocsin.domain.events import UserId
from tocsin.providers.base import Content, Sender
from tocsin.store.records import Item, Result

EXPIRED: Final = "lifetime over"
DELETED: Final = "token deleted"
_PORTION_BYTES: Final = 1024 * 1024


def portions(
    items: Sequence[Item], devices: Mapping[UserId, Sequence[Device]], most_deliveries: int
) -> list[Sequence[Item]]:
    """The items, in their order, so many at a time that expanding and sending them does not stop the loop for long: up
    to `most_deliveries`, and a megabyte of content; always one item."""
    deliveries = [len(devices.get(item.event.owner, ()) if item.targets is None else item.targets) for item in items]
    sizes = [len(item.event.body) for item in items]
    if sum(deliveries) <= most_deliveries and sum(sizes) <= _PORTION_BYTES:
        return [items]
    found: list[Sequence[Item]] = []
    first = number = size_bytes = 0
    for index in range(len(items)):
        number += deliveries[index]
        size_bytes += sizes[index]
        if index > first and (number > most_deliveries or size_bytes > _PORTION_BYTES):
            found.append(items[first:index])
            first, number, size_bytes = index, deliveries[index], sizes[index]
    return [*found, items[first:]]


class Expanding:
    def __init__(self, providers: Mapping[str, Sender], receipts: Receipts) -> None:
        self._providers = providers
        self._receipts = receipts
        self.in_time_s = 0.0
        """How long an attempt takes at most."""

    def expand(
        self, items: Iterable[Item], devices: Mapping[UserId, Sequence[Device]], now_ms: int
    ) -> tuple[list[OpenItem], dict[str, list[Delivery]]]:
        """The items, open, and their deliveries by lane. An item without any is finished."""
        opened: list[OpenItem] = []
        by_lane: dict[str, list[Delivery]] = {}
        providers = self._providers
        for item in items:
            send_until = NEVER if item.deadline is None else item.deadline - self.in_time_s
            content_bytes = len(item.event.body)
            open_item = OpenItem(item, Content(item.event), send_until, content_bytes)
            opened.append(open_item)
            own: Sequence[Device] = devices.get(item.event.owner, ())
            if item.targets is not None:
                own = self._named(open_item, item.targets, own, now_ms)
            if item.event.expires_ms <= now_ms:
                self._note_all(open_item, [device.key for device in own], Result.EXPIRED, EXPIRED, now_ms)
                own = ()
            open_item.left = len(own)
            size_bytes = content_bytes + DELIVERY_BYTES
            for device in own:
                route = providers[device.provider].route(device)
                delivery = Delivery(
                    open_item.content, device, route, item=open_item, tries=item.tries, size_bytes=size_bytes
                )
                size_bytes = DELIVERY_BYTES
                if route.lane in by_lane:
                    by_lane[route.lane].append(delivery)
                else:
                    by_lane[route.lane] = [delivery]
        self._receipts.opened(opened)
        return opened, by_lane

    def _named(self, open_item: OpenItem, targets: Sequence[str], own: Sequence[Device], now_ms: int) -> list[Device]:
        """The devices that still wait; a target that is no device any more was deleted."""
        by_key = {device.key: device for device in own}
        gone = [target for target in targets if target not in by_key]
        self._note_all(open_item, gone, Result.CANCELLED, DELETED, now_ms)
        return [by_key[target] for target in targets if target in by_key]

    def _note_all(self, open_item: OpenItem, keys: Iterable[str], result: Result, reason: str, now_ms: int) -> None:
        lane, number = open_item.item.lane or "", open_item.item.tries + 1
        for key in keys:
            failed = Failed.EXPIRED if result is Result.EXPIRED else None
            self._receipts.note(open_item, key, lane, result, now_ms, number, reason=reason, failed=failed)
