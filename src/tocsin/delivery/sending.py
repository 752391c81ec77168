"""Gives deliveries to their lanes, and what a lane lets go to its provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast

import structlog

from tocsin.delivery.cancellations import Cancellations
from tocsin.delivery.expanding import DELETED, EXPIRED
from tocsin.delivery.lane import Lane
from tocsin.delivery.lane_book import LaneBook
from tocsin.delivery.open_items import Delivery
from tocsin.delivery.receipts import Receipts
from tocsin.domain.outcomes import Answer, Outcome, RetryLater
from tocsin.providers.answers import SLOWLY
from tocsin.providers.base import Push, Sender
from tocsin.store.records import Result

log = structlog.get_logger(__name__)

_TOPIC_PAUSE_MS: Final = 60_000
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
    ) -> None:
        self._lanes = lanes
        self._receipts = receipts
        self._cancellations = cancellations
        self._now_ms = now_ms
        self._may_send = may_send
        self._room = room
        """Set when a lane has let something go: there may be room to claim more."""
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
        rejected = lane.offer(deliveries)
        if not rejected:
            return
        due_ms = now_ms
        if (chance := lane.next_chance()) is not None:
            due_ms += int((chance - self._loop.time()) * 1000)
        elif not lane.full:
            due_ms += _TOPIC_PAUSE_MS  # only a paused topic is turned away by a lane that has room
        for delivery in rejected:
            self._receipts.park(delivery, due_ms)

    def park_waiting(self, lane: Lane, now_ms: int) -> None:
        """What waits in memory while its lane may not send is parked."""
        if waiting := lane.to_park():
            self.offer(lane, waiting, now_ms)

    def pump(self, lane: Lane) -> None:
        """Send what the lane lets go; what may no longer be sent ends here."""
        if not self._may_send():
            return
        taken = lane.take()
        if not taken:
            return
        now_ms, now, cancelled = self._now_ms(), self._loop.time(), self._cancellations.marks
        sends: list[Delivery] = []
        for delivery in taken:
            if delivery.content.event.expires_ms <= now_ms:
                _not_sent(lane, delivery)
                self._receipts.end(delivery, Result.EXPIRED, now_ms, reason=EXPIRED)
            elif cancelled and delivery.device in self._cancellations:
                _not_sent(lane, delivery)
                self._receipts.end(delivery, Result.CANCELLED, now_ms, reason=DELETED)
            elif now > delivery.item.send_until or self.stopping:
                _not_sent(lane, delivery)
                self._receipts.park(delivery, now_ms)
            else:
                sends.append(delivery)
        if sends:
            self._send(lane, sends)
        if len(sends) < len(taken) and lane.waiting:
            self._loop.call_soon(self.pump, lane)  # some were not sent: the next ones have their places
        self._room.set()

    def resume(self) -> None:
        """`may_send` has become true: everything that waited for it goes on."""
        for lane in self._lanes:
            self.pump(lane)
        for provider in self._providers.values():
            provider.resume()

    def withdrawn(self, pushes: Iterable[Push]) -> Sequence[Push]:
        """See `base.DispatcherPort`."""
        now_ms, cancellations = self._now_ms(), self._cancellations
        if not cancellations.marks and self._loop.time() > self._some_lost_until:
            return [push for push in pushes if push.content.event.expires_ms <= now_ms]
        # Every push that providers have is a delivery: it was made in `expanding.py`.
        return [
            delivery
            for delivery in cast(Iterable[Delivery], pushes)
            if delivery.content.event.expires_ms <= now_ms or delivery.device in cancellations or delivery.item.lost
        ]

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


def _not_sent(lane: Lane, delivery: Delivery) -> None:
    """One that the lane has let go is not sent after all."""
    lane.unsent()
    lane.share.give_back(delivery.size_bytes)
