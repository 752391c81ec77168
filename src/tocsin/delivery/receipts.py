"""Notes what became of deliveries, and says when an item has none left that is out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tocsin.delivery.failure_log import Failed, FailureLog
from tocsin.delivery.metrics import DeliveryMetrics
from tocsin.delivery.open_items import Delivery, OpenItem
from tocsin.domain.outcomes import Answer
from tocsin.store.records import Attempt, Result


class Receipts:
    def __init__(self, metrics: DeliveryMetrics, failures: FailureLog, finished: Callable[[OpenItem], None]) -> None:
        self._metrics = metrics
        self._failures = failures
        self._finished = finished
        self.out = 0
        """Deliveries that are out: in a lane, or at a provider."""

    def opened(self, items: Sequence[OpenItem]) -> None:
        """The deliveries of these items, `left` of each, are out now; an item without any is finished."""
        for item in items:
            self.out += item.left
            if not item.left:
                self._finished(item)

    def note(
        self,
        item: OpenItem,
        device: str,
        lane: str,
        result: Result,
        now_ms: int,
        number: int,
        status: int = 0,
        reason: str = "",
        failed: Failed | None = None,
        fields: Sequence[str] = (),
    ) -> None:
        """A receipt for a device, by its key, that needs no further attempt. `failed`: it is logged, with the fields of
        the request that the provider has named."""
        round = item.item.round
        item.attempts.append(Attempt(now_ms, device, lane, result, status, reason, "", None, round, number))
        self._metrics.attempt(lane, result, label(status, reason) if status else "")
        if failed is not None:
            self._failures.failed(item.item.event.id, device, lane, result, status, reason, failed, fields)

    def end(
        self,
        delivery: Delivery,
        result: Result,
        now_ms: int,
        *,
        status: int = 0,
        reason: str = "",
        failed: Failed | None = None,
        fields: Sequence[str] = (),
    ) -> None:
        """The delivery has its final outcome. See `note`."""
        lane, key = delivery.route.lane, delivery.device.key
        self.note(delivery.item, key, lane, result, now_ms, delivery.tries + 1, status, reason, failed, fields)
        self.one_less(delivery.item)

    def again(self, delivery: Delivery, result: Result, answer: Answer, due_ms: int, now_ms: int) -> None:
        """The attempt failed: a receipt, and the delivery is parked until `due_ms`."""
        due_ms = min(due_ms, delivery.item.item.event.expires_ms)
        self.attempted(delivery, result, answer, due_ms, now_ms)
        lane, event = delivery.route.lane, delivery.item.item.event
        self._metrics.attempt(lane, result, label(answer.status, answer.reason))
        in_s = (due_ms - now_ms) / 1000
        self._failures.again(event.id, delivery.device.key, lane, result, answer.status, answer.reason, in_s)
        self.park(delivery, due_ms)

    def attempted(self, delivery: Delivery, result: Result, answer: Answer, retry_at_ms: int, now_ms: int) -> None:
        """A receipt for an attempt that is followed by another."""
        delivery.tries += 1
        item, key, lane = delivery.item, delivery.device.key, delivery.route.lane
        item.attempts.append(
            Attempt(
                now_ms,
                key,
                lane,
                result,
                answer.status,
                answer.reason,
                "",
                retry_at_ms,
                item.item.round,
                delivery.tries,
            )
        )

    def park(self, delivery: Delivery, due_ms: int) -> None:
        """What waits for its lane or its time waits in the store, not here."""
        delivery.item.park(delivery.route.lane, due_ms, delivery.tries, delivery.device.key)
        self.one_less(delivery.item)

    def one_less(self, item: OpenItem) -> None:
        item.left -= 1
        self.out -= 1
        if not item.left:
            self._finished(item)


def label(status: int, reason: str) -> str:
    """A reason for a metric: free text of our own (a link's error) would be a label without end."""
    return reason if status else "link"
