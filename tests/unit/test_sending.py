"""What a lane lets go, on its way to the provider: a place that nobody uses is the next one's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.support.line import APPLICATION, apns_device, make_event

from tocsin.delivery.cancellations import Cancellations
from tocsin.delivery.failure_log import FailureLog
from tocsin.delivery.lane import LaneOptions
from tocsin.delivery.lane_book import LaneBook
from tocsin.delivery.open_items import Delivery, OpenItem
from tocsin.delivery.receipts import Receipts
from tocsin.delivery.sending import Sending
from tocsin.domain.routes import Route
from tocsin.providers.base import Content, Push
from tocsin.store.records import Handle, Item
from tocsin.telemetry import Metrics

ROUTE = Route("apns", APPLICATION, f"apns:production:{APPLICATION}", "production")


class Provider:
    """It takes everything, and never answers."""

    def __init__(self) -> None:
        self.taken: list[Push] = []

    def send(self, pushes: Sequence[Push]) -> None:
        self.taken += pushes


def delivery() -> Delivery:
    device = apns_device()
    event = make_event(device.owner)
    item = OpenItem(Item(event, Handle()), Content(event), left=1)
    return Delivery(item.content, device, ROUTE, item=item, tries=0)


async def test_the_place_of_a_delivery_that_is_not_sent_is_filled_without_waiting_for_an_answer() -> None:
    loop = asyncio.get_running_loop()
    lanes = LaneBook(LaneOptions(2, 100, 2), loop.time, lambda: 0.5)
    receipts = Receipts(Metrics(), FailureLog(loop.time), lambda item: None)
    cancellations = Cancellations(loop.time, 240.0)
    sending = Sending(lanes, receipts, cancellations, lambda: 0, lambda: True, asyncio.Event(), lambda: None)
    provider = Provider()
    providers: Any = {"apns": provider}
    sending.use(providers, lambda outcomes: None)
    deleted, first, second = delivery(), delivery(), delivery()
    cancellations.deleted(deleted.device.owner, "apns", deleted.device.token)
    sending.give([deleted, first, second], 0)
    await asyncio.sleep(0)
    assert provider.taken == [first, second]
