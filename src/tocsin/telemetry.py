"""Logs and metrics. Metrics are declared here, in one registry of their own, so that a test can look at a fresh one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from tocsin.domain.events import Event
from tocsin.histogram import DELIVERY_S, Exemplar, Histogram

_MOST_LABELS: Final = 5000
"""Of `tocsin_attempts`: lanes, results and reasons together."""
_GOES_ON: Final = frozenset({"retry", "misconfigured"})
"""Results of an attempt that is followed by another (`store.records.Result`)."""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(level: str, style: str) -> None:
    """Lines for people on a terminal, JSON for everything else, on standard error."""
    if style == "auto":
        style = "console" if sys.stderr.isatty() else "json"
    renderer = structlog.dev.ConsoleRenderer() if style == "console" else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # Looked up at each line: standard error may have been replaced meanwhile, and closed.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


class Metrics:
    """What tocsin counts. No label ever holds a token, a user or an event. See also `delivery.metrics`.

    What is known at any time without counting, such as the state of a lane, is in `service.exposition`.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._attempts = Counter(
            "tocsin_attempts",
            "Attempts that ended, by lane, result and reason.",
            ["lane", "result", "reason"],
            registry=registry,
        )
        self._claimed = Counter("tocsin_items_claimed", "Items taken from the queue.", registry=registry)
        self._settled = Counter("tocsin_items_settled", "Items settled.", registry=registry)
        self._lost = Counter(
            "tocsin_leases_lost", "Settlements that came after ownership of their item had ended.", registry=registry
        )
        self._tokens_removed = Counter(
            "tocsin_dead_tokens", "Deliveries whose device token a provider declared dead.", ["lane"], registry=registry
        )
        self.backlog = Gauge("tocsin_backlog_events", "Events accepted and not finished.", registry=registry)
        self.backlog_bytes = Gauge("tocsin_backlog_bytes", "Bytes of those events.", registry=registry)
        self.backlog_oldest = Gauge(
            "tocsin_backlog_oldest_seconds",
            "How long ago the oldest of those events was accepted; 0 without any.",
            registry=registry,
        )
        self.store_bytes = Gauge("tocsin_store_bytes", "What the store takes where it is stored.", registry=registry)
        self.search_behind = Gauge(
            "tocsin_search_behind_seconds", "How far the index of the search is behind the store.", registry=registry
        )
        self.reading_held_up = Gauge(
            "tocsin_reading_held_up_seconds",
            "For how long events could not be read because a transaction of the database's server has not ended.",
            registry=registry,
        )
        self._throttled = Counter(
            "tocsin_throttled",
            "Requests that were answered 429, by the limit.",
            ["limit"],
            registry=registry,
        )
        self._wrong_secrets = Counter("tocsin_wrong_secrets", "Wrong keys and sessions.", registry=registry)
        self._source_connected = Gauge(
            "tocsin_source_connected", "1 while a source of events is connected.", ["source"], registry=registry
        )
        self._source_appended = Counter(
            "tocsin_source_events", "Events taken from a source.", ["consumer"], registry=registry
        )
        self._source_refused = Counter(
            "tocsin_source_refused",
            "Messages refused, by what HTTP would answer.",
            ["consumer", "status"],
            registry=registry,
        )
        self._source_lag = Gauge(
            "tocsin_source_lag_seconds",
            "How long the events taken last had waited in the source.",
            ["consumer"],
            registry=registry,
        )
        self._source_pending = Gauge(
            "tocsin_source_pending", "Messages that wait in the source.", ["consumer"], registry=registry
        )
        self._source_unacknowledged = Gauge(
            "tocsin_source_unacknowledged",
            "Messages delivered and not acknowledged yet.",
            ["consumer"],
            registry=registry,
        )
        self._source_redelivered = Gauge(
            "tocsin_source_redelivered",
            "Of these, the messages delivered more than once.",
            ["consumer"],
            registry=registry,
        )
        self.accepted_total = self.sent_total = self.failed_total = 0
        """Events accepted, attempts that a provider took, and all other attempts: since the start."""
        self.accepted_by_name: dict[str, int] = {}
        self.ended: dict[tuple[str, str], int] = {}
        """Deliveries that have had their final outcome, by lane and outcome."""
        self.replicas: Sequence[tuple[str, int, float]] = ()
        """Each copy of the store that follows it: its name, and how far it is behind, in bytes and in seconds."""
        self.latencies: dict[str, Histogram] = {}
        """From acceptance until the provider took it, of a sample of the deliveries, by lane."""
        self.when_took: Callable[[Sequence[int]], None] = lambda milliseconds: None
        """Is told of latencies."""
        self._count_attempts: dict[tuple[str, str, str], Callable[[float], None]] = {}

    def accepted(self, events: Sequence[Event]) -> None:
        self.accepted_total += len(events)
        by_name = self.accepted_by_name
        for event in events:
            by_name[event.message] = by_name.get(event.message, 0) + 1

    def claimed(self, items: int) -> None:
        self._claimed.inc(items)

    def attempt(self, lane: str, result: str, reason: str, count: int = 1) -> None:
        # Looked up once: the client library's own look-up by labels costs more than a delivery's receipt.
        key = (lane, result, reason)
        increase = self._count_attempts.get(key)
        if increase is None and len(self._count_attempts) >= _MOST_LABELS:
            # A provider that invents reasons must not fill the memory of both sides with them.
            key = (lane, result, "other")
            increase = self._count_attempts.get(key)
        if increase is None:
            increase = self._count_attempts[key] = self._attempts.labels(*key).inc
        increase(count)
        if result == "delivered":
            self.sent_total += count
        else:
            self.failed_total += count
        if result not in _GOES_ON:
            ended = (lane, result)
            self.ended[ended] = self.ended.get(ended, 0) + count

    def settled(self, items: int) -> None:
        self._settled.inc(items)

    def took(self, samples: Sequence[tuple[str, int]]) -> None:
        if not samples:
            return
        by_lane: dict[str, list[float]] = {}
        for lane, milliseconds in samples:
            by_lane.setdefault(lane, []).append(milliseconds / 1000)
        for lane, seconds in by_lane.items():
            if lane not in self.latencies:
                self.latencies[lane] = Histogram(DELIVERY_S)
            self.latencies[lane].observe(seconds)
        self.when_took([milliseconds for _, milliseconds in samples])

    def traced(self, lane: str, exemplar: Exemplar) -> None:
        """A delivery by this lane was traced. `took` is told of it, too."""
        if lane not in self.latencies:
            self.latencies[lane] = Histogram(DELIVERY_S)
        self.latencies[lane].exemplify(exemplar)

    def lost(self, items: int) -> None:
        self._lost.inc(items)

    def throttled(self, limit: str) -> None:
        self._throttled.labels(limit).inc()

    def wrong_secret(self) -> None:
        self._wrong_secrets.inc()

    def token_removed(self, lane: str) -> None:
        self._tokens_removed.labels(lane).inc()

    # -- sources.status.SourceMetrics ----------------------------------------------------------------------------------

    def source_connected(self, source: str, connected: bool) -> None:
        self._source_connected.labels(source).set(connected)

    def source_appended(self, consumer: str, events: Sequence[Event], lag_s: float) -> None:
        self.accepted(events)
        self._source_appended.labels(consumer).inc(len(events))
        self._source_lag.labels(consumer).set(lag_s)

    def source_refused(self, consumer: str, status: int) -> None:
        self._source_refused.labels(consumer, str(status)).inc()

    def source_waiting(self, consumer: str, pending: int, unacknowledged: int, redelivered: int) -> None:
        self._source_pending.labels(consumer).set(pending)
        self._source_unacknowledged.labels(consumer).set(unacknowledged)
        self._source_redelivered.labels(consumer).set(redelivered)
