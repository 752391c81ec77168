"""Gives deliveries to their lanes, and what a lane lets go to its provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast

import structlog

from tocsin.delivery.cancellations import Cancellations
from tocsin.delivery.expanding import DELETED, EXPIRED
from tocsin.delivery.failure_log import Failed
from tocsin.delivery.lane import Lane
from tocsin.delivery.lane_book import LaneBook
from tocsin.delivery.open_items import Delivery
from tocsin.delivery.receipts import Receipts
from tocsin.delivery.tracing import DeliveryTraces
from tocsin.domain.outcomes import Answer, Outcome, RetryLater
from tocsin.providers.answers import SLOWLY
from tocsin.providers.base import Push, Sender
from tocsin.store.records import Result

log = structlog.get_logger(__name__)

_CANNOT_BE_SENT: Final = RetryLater(Answer(0, "the push cannot be made"), SLOWLY)


class Sending:
    def __init__(
        self,
        lanes: LaneBook,
        receipts: Receipts,
        cancellations: Cancellations,
        now_ms: Callable[[], int],
        may_send: Callable[[], bool],
        room: asyncio.Event,
        wake: Callable[[], None],
        traces: DeliveryTraces | None = None,
    ) -> None:
        self._lanes = lanes
        self._receipts = receipts
        self._cancellations = cancellations
        self._now_ms = now_ms
        self._may_send = may_send
        self._room = room
        """Set when a lane has let something go: there may be room to claim more."""
        self._wake = wake
        """Called when a lane's pause has ended: what is parked for it can be claimed."""
        self._traces = traces
        self._loop = asyncio.get_running_loop()
        self._providers: Mapping[str, Sender] = {}
        self._report: Callable[[list[tuple[Push, Outcome]]], None] = lambda outcomes: None
        self._some_lost_until = 0.0
        self.stopping = False

    def use(self, providers: Mapping[str, Sender], report: Callable[[list[tuple[Push, Outcome]]], None]) -> None:
        """The providers by name, and who is told of pushes that could not be sent."""
        self._providers, self._report = providers, report

    def give(self, deliveries: Sequence[Delivery], now_ms: int) -> None:
        """Give deliveries of one lane to it, and let it send."""
        lane = self._lanes.of(deliveries[0].route)
        self.offer(lane, deliveries, now_ms)
        self.pump(lane)

    def offer(self, lane: Lane, deliveries: Sequence[Delivery], now_ms: int) -> None:
        """Give deliveries to their lane; what it does not take waits in the store until it may."""
        for delivery in lane.offer(deliveries):
            self._receipts.park(delivery, now_ms + int(lane.wait_s(delivery) * 1000))

    def go_on(self, lane: Lane, now_ms: int) -> None:
        """A pause has begun or ended, perhaps: park what waits in memory and may not be sent now, send what may."""
        for delivery in lane.to_park():
            self._receipts.park(delivery, now_ms + int(lane.wait_s(delivery) * 1000))
        if lane.has_resumed():
            self._wake()
        self.pump(lane)

    def pump(self, lane: Lane) -> None:
        """Send what the lane lets go."""
        if not self._may_send():
            return
        if (taken := lane.take()) and (sends := self._still_to_send(lane, taken)):
            if self._traces is not None:
                self._traces.sent(sends, self._now_ms())
            self._send(lane, sends)

    def send_anew(self, pushes: Iterable[Push]) -> None:
        """See `base.DispatcherPort`. What has another route now, as its account is gone, is claimed again for that."""
        now_ms = self._now_ms()
        by_lane: dict[str, list[Delivery]] = {}
        for delivery in cast(Iterable[Delivery], pushes):
            route, device = delivery.route, delivery.device
            if not delivery.tried and self._providers[device.provider].route(device) != route:
                self._lanes[route.lane].not_sent(delivery)
                self._receipts.park(delivery, now_ms)
            else:
                by_lane.setdefault(route.lane, []).append(delivery)
        for name, own in by_lane.items():
            if sends := self._still_to_send(self._lanes[name], own):
                self._send(self._lanes[name], sends)

    def _still_to_send(self, lane: Lane, taken: Sequence[Delivery]) -> list[Delivery]:
        """Which of these, that the lane has let go, may still be sent; the others end here."""
        now_ms, now, cancelled = self._now_ms(), self._loop.time(), self._cancellations.marks
        sends: list[Delivery] = []
        for delivery in taken:
            if delivery.content.event.expires_ms <= now_ms:
                lane.not_sent(delivery)
                self._receipts.end(delivery, Result.EXPIRED, now_ms, reason=EXPIRED, failed=Failed.EXPIRED)
            elif cancelled and delivery.device in self._cancellations:
                lane.not_sent(delivery)
                self._receipts.end(delivery, Result.CANCELLED, now_ms, reason=DELETED)
            elif now > delivery.item.send_until or self.stopping:
                lane.not_sent(delivery)
                self._receipts.park(delivery, now_ms)
            else:
                sends.append(delivery)
        if len(sends) < len(taken) and lane.waiting:
            self._loop.call_soon(self.pump, lane)  # some were not sent: the next ones have their places
        self._room.set()
        return sends

    def resume(self) -> None:
        """`may_send` has become true: everything that waited for it goes on."""
        for lane in self._lanes:
            self.pump(lane)
        for provider in self._providers.values():
            provider.resume()

    def withdrawn(self, pushes: Iterable[Push]) -> Sequence[Push]:
        """See `base.DispatcherPort`."""
        now_ms = self._now_ms()
        if self._none_is_revoked():
            return [push for push in pushes if push.content.event.expires_ms <= now_ms]
        # Every push that providers have is a delivery: it was made in `expanding.py`.
        return [
            delivery
            for delivery in cast(Iterable[Delivery], pushes)
            if delivery.content.event.expires_ms <= now_ms or self._is_revoked(delivery)
        ]

    def revoked(self, pushes: Iterable[Push]) -> bool:
        """See `base.DispatcherPort`."""
        if self._none_is_revoked():
            return False
        return any(self._is_revoked(delivery) for delivery in cast(Iterable[Delivery], pushes))

    def _none_is_revoked(self) -> bool:
        return not self._cancellations.marks and self._loop.time() > self._some_lost_until

    def _is_revoked(self, delivery: Delivery) -> bool:
        return delivery.device in self._cancellations or delivery.item.lost

    def lost(self, kept_s: float) -> None:
        """Ownership of some items was lost; for `kept_s` from now deliveries of them may be on their way."""
        self._some_lost_until = self._loop.time() + kept_s

    def _send(self, lane: Lane, deliveries: Sequence[Delivery]) -> None:
        # One lane has one provider.
        try:
            self._providers[deliveries[0].device.provider].send(deliveries)
        except Exception:
            # A mistake of ours, before anything was sent: these are tried again slowly, and the others go on.
            log.exception("cannot be sent", lane=lane.name)
            failed: list[tuple[Push, Outcome]] = [(delivery, _CANNOT_BE_SENT) for delivery in deliveries]
            self._loop.call_soon(self._report, failed)
