"""What each outcome of an attempt comes to: for the delivery, for its lane, for its token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, cast

from tocsin.delivery.breaker import LINK
from tocsin.delivery.dead_tokens import DeadTokens
from tocsin.delivery.expanding import DELETED, EXPIRED
from tocsin.delivery.failure_log import Failed
from tocsin.delivery.lane import Lane
from tocsin.delivery.lane_book import LaneBook
from tocsin.delivery.learning import NOTED_EVERY_MS, Learning
from tocsin.delivery.metrics import DeliveryMetrics
from tocsin.delivery.open_items import Delivery
from tocsin.delivery.receipts import Receipts
from tocsin.delivery.retry import MISCONFIGURED, delay_s, retry_at_ms
from tocsin.delivery.sending import Sending
from tocsin.domain.outcomes import (
    Delivered,
    Misconfigured,
    Outcome,
    Refused,
    RetryLater,
    Scope,
    TokenDead,
    Withdrawn,
)
from tocsin.domain.routes import Route
from tocsin.providers.base import Push, Sender
from tocsin.store.records import Attempt, Result

_STILL_DEAD: Final = MISCONFIGURED
"""For a token that the provider calls dead since before it was registered, again and again. All attempts count, those
that a lost connection ended too: so the longest wait may follow the first such answer."""


class Outcomes:
    def __init__(
        self,
        lanes: LaneBook,
        sending: Sending,
        receipts: Receipts,
        dead_tokens: DeadTokens,
        learning: Learning,
        metrics: DeliveryMetrics,
        *,
        provider_of: Callable[[str], Sender],
        now_ms: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._lanes = lanes
        self._sending = sending
        self._receipts = receipts
        self._dead_tokens = dead_tokens
        self._learning = learning
        self._metrics = metrics
        self._provider_of = provider_of
        self._now_ms = now_ms
        self._random = random
        self._loop = asyncio.get_running_loop()

    def report(self, outcomes: list[tuple[Push, Outcome]]) -> None:
        """See `base.DispatcherPort`."""
        now_ms = self._now_ms()
        by_lane: dict[str, list[tuple[Delivery, Outcome]]] = {}
        # Every push that providers have is a delivery: it was made in `expanding.py`.
        for pair in cast(list[tuple[Delivery, Outcome]], outcomes):
            name = pair[0].route.lane
            if name in by_lane:
                by_lane[name].append(pair)
            else:
                by_lane[name] = [pair]
        for name, own in by_lane.items():
            lane = self._lanes[name]
            self._tell_lane(lane, own, now_ms)
            lane.share.give_back(sum([delivery.size_bytes for delivery, _ in own]))
            delivered = 0
            for delivery, outcome in own:
                if type(outcome) is Delivered:
                    delivered += 1
                    self._delivered(lane, delivery, outcome, now_ms)
                else:
                    self._not_delivered(lane, delivery, outcome, now_ms)
            if delivered:
                self._metrics.attempt(name, Result.DELIVERED, "", delivered)
            self._sending.go_on(lane, now_ms)

    def _tell_lane(self, lane: Lane, outcomes: Sequence[tuple[Delivery, Outcome]], now_ms: int) -> None:
        """How many of these attempts were answered, failed or were not made; and what each that was not delivered, and
        each probe, says of the lane. Attempts that failed with one connection or access token are one failure."""
        failed = dead = unsent = 0
        failures: list[str] = []
        telling: list[tuple[Delivery, Outcome]] = []
        reached, probes = lane.evidence.lately, lane.pauses.probes
        for pair in outcomes:
            delivery, outcome = pair
            if type(outcome) is Delivered:
                # First of all: whom a topic reaches counts before whom it does not.
                if delivery.route.topic not in reached:
                    lane.evidence.reach(delivery.route.topic, now_ms)
                if probes and delivery in probes:
                    telling.append(pair)
                continue
            telling.append(pair)
            if type(outcome) is RetryLater and outcome.failure:
                failed += 1
                if lane.counts(delivery):
                    failures.append(LINK if outcome.shared_failure else delivery.device.token)
            elif type(outcome) is TokenDead:
                dead += 1
            elif type(outcome) is Withdrawn:
                unsent += 1
        if LINK in failures:
            failures = [*(device for device in failures if device != LINK), LINK]
        lane.ended(len(outcomes), healthy=len(outcomes) - failed - unsent, failures=failures, dead=dead)
        for delivery, outcome in telling:
            lane.answered(delivery, outcome)

    def _delivered(self, lane: Lane, delivery: Delivery, outcome: Delivered, now_ms: int) -> None:
        device, item = delivery.device, delivery.item
        item.attempts.append(
            Attempt(
                now_ms,
                device.key,
                lane.name,
                "delivered",
                outcome.answer.status,
                "",
                outcome.provider_id,
                None,
                item.item.round,
                delivery.tries + 1,
            )
        )
        if delivery.tried:
            self._learning.address(device, self._provider_of(device.provider).learned(delivery), now_ms)
        elif (
            device.last_success_ms is None
            or now_ms - device.last_success_ms > NOTED_EVERY_MS
            or device.complaint is not None
        ):
            self._learning.reached(device, now_ms)
        self._receipts.one_less(item)

    def _not_delivered(self, lane: Lane, delivery: Delivery, outcome: Outcome, now_ms: int) -> None:
        answer = outcome.answer
        match outcome:
            case RetryLater(next_route=route) if route is not None:
                self._try_route(delivery, outcome, route, now_ms)
            case RetryLater():
                if outcome.pause_also:
                    self._pause_also(lane, outcome, now_ms)
                due_ms = retry_at_ms(outcome, delivery.tries, now_ms, self._random())
                self._receipts.again(delivery, Result.RETRY, answer, due_ms, now_ms)
            case Misconfigured():
                if outcome.scope is Scope.DEVICE:
                    self._learning.complained(delivery.device, delivery.route, answer, now_ms)
                due_ms = now_ms + int(delay_s(MISCONFIGURED, delivery.tries, 0.0) * 1000)
                self._receipts.again(delivery, Result.MISCONFIGURED, answer, due_ms, now_ms)
            case Refused():
                failed = Failed.OUR_BUG if outcome.our_bug else Failed.REFUSED
                status, reason, fields = answer.status, answer.reason, outcome.fields
                self._receipts.end(
                    delivery, Result.REFUSED, now_ms, status=status, reason=reason, failed=failed, fields=fields
                )
            case TokenDead():
                self._dead_tokens.add(delivery, outcome)
            case Withdrawn():
                self._withdrawn(delivery, now_ms)
            case Delivered():
                raise AssertionError("handled by the caller")

    def _pause_also(self, lane: Lane, outcome: RetryLater, now_ms: int) -> None:
        """The lanes that share with this one what its provider limits."""
        for other in {self._lanes.of(route) for route in outcome.pause_also} - {lane}:
            other.slow_down(outcome)
            self._sending.go_on(other, now_ms)

    def _try_route(self, delivery: Delivery, outcome: RetryLater, route: Route, now_ms: int) -> None:
        """The provider knows another route to the same device: try it at once, on that route's lane."""
        answer = outcome.answer
        self._receipts.attempted(delivery, Result.RETRY, answer, now_ms, now_ms)
        self._metrics.attempt(delivery.route.lane, Result.RETRY, answer.reason)
        delivery.tried = (*delivery.tried, delivery.route)
        delivery.route = route
        lane = self._lanes.of(route)
        self._sending.offer(lane, [delivery], now_ms)
        self._loop.call_soon(self._sending.pump, lane)

    def _withdrawn(self, delivery: Delivery, now_ms: int) -> None:
        if delivery.content.event.expires_ms <= now_ms:
            self._receipts.end(delivery, Result.EXPIRED, now_ms, reason=EXPIRED, failed=Failed.EXPIRED)
        elif delivery.item.lost:
            self._receipts.park(delivery, now_ms)
        else:
            self._receipts.end(delivery, Result.CANCELLED, now_ms, reason=DELETED)

    def token_removed(self, delivery: Delivery, outcome: TokenDead, registered_again: bool, quarantined: bool) -> None:
        """The registry has removed a dead token, `quarantined` or not, or keeps it because it was registered again
        since."""
        now_ms, answer = self._now_ms(), outcome.answer
        if registered_again:
            # At once the first time; where the provider says so again, ever more slowly.
            wait_s = delay_s(_STILL_DEAD, delivery.tries - 1, 0.0) if delivery.tries else 0.0
            self._receipts.again(delivery, Result.RETRY, answer, now_ms + int(wait_s * 1000), now_ms)
        else:
            self._metrics.token_removed(delivery.route.lane)
            failed = Failed.QUARANTINED if quarantined else Failed.TOKEN_DEAD
            status, reason = answer.status, answer.reason
            self._receipts.end(delivery, Result.TOKEN_DEAD, now_ms, status=status, reason=reason, failed=failed)
