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


class Line:
    """`Sending` on a clock of the test's (milliseconds), with a provider that takes everything."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.now_ms = 0
        self.cancellations = Cancellations(loop.time, 240.0)
        self.sending = Sending(
            LaneBook(LaneOptions(2, 100, 2), loop.time, lambda: 0.5),
            Receipts(Metrics(), FailureLog(loop.time), lambda item: None),
            self.cancellations,
            lambda: self.now_ms,
            lambda: True,
            asyncio.Event(),
            lambda: None,
        )
        self.provider = Provider()
        providers: Any = {"apns": self.provider}
        self.sending.use(providers, lambda outcomes: None)


async def test_the_place_of_a_delivery_that_is_not_sent_is_filled_without_waiting_for_an_answer() -> None:
    line = Line()
    deleted, first, second = delivery(), delivery(), delivery()
    line.cancellations.deleted(deleted.device.owner, "apns", deleted.device.token)
    line.sending.give([deleted, first, second], 0)
    await asyncio.sleep(0)
    assert line.provider.taken == [first, second]


async def test_a_deleted_token_and_a_lost_event_are_revoked_and_a_lifetime_that_is_over_is_withdrawn_only() -> None:
    line = Line()
    sending = line.sending
    kept, deleted, lost = delivery(), delivery(), delivery()
    assert not sending.revoked([kept, deleted, lost])
    line.cancellations.deleted(deleted.device.owner, "apns", deleted.device.token)
    assert sending.revoked([kept, deleted])
    assert not sending.revoked([kept, lost])
    lost.item.lose()
    sending.lost(60.0)
    assert sending.revoked([kept, lost])
    assert sending.withdrawn([kept, deleted, lost]) == [deleted, lost]
    line.now_ms = kept.content.event.expires_ms
    assert sending.withdrawn([kept]) == [kept]
    assert not sending.revoked([kept]), "a connection is not ended for it"
