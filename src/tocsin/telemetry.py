"""Logs and metrics. Metrics are declared here, in one registry of their own, so that a test can look at a fresh one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

_MOST_LABELS: Final = 5000
"""Of `tocsin_attempts`: lanes, results and reasons together."""
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
    """What tocsin counts. No label ever holds a token, a user or an event. See also `delivery.metrics`."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
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
            "tocsin_dead_tokens", "Device tokens that a provider declared dead.", ["lane"], registry=registry
        )
        self.unknown_answers = Gauge(
            "tocsin_unknown_answers",
            "Answers of a provider that no row of its table knows, since the start.",
            ["provider"],
            registry=registry,
        )
        self.in_flight = Gauge("tocsin_in_flight", "Deliveries on the wire.", ["lane"], registry=registry)
        self.waiting = Gauge("tocsin_waiting", "Deliveries waiting in memory.", ["lane"], registry=registry)
        self.lane_paused = Gauge(
            "tocsin_lane_paused",
            "1 where a lane does not send (breaker open or paused).",
            ["lane", "state"],
            registry=registry,
        )
        self.topics_paused = Gauge(
            "tocsin_topics_paused", "Topics that are paused: misconfigured.", ["lane"], registry=registry
        )
        self.devices_paused = Gauge(
            "tocsin_devices_paused",
            "Devices that are paused, each for itself alone: misconfigured.",
            ["lane"],
            registry=registry,
        )
        self.backlog = Gauge("tocsin_backlog_events", "Events accepted and not finished.", registry=registry)
        self.backlog_bytes = Gauge("tocsin_backlog_bytes", "Bytes of those events.", registry=registry)
        self.certificate_expiry = Gauge(
            "tocsin_certificate_expiry_seconds",
            "Unix time at which an application's certificate ends.",
            ["application"],
            registry=registry,
        )
        self.connections = Gauge(
            "tocsin_connections", "HTTP/2 connections open to a provider.", ["origin"], registry=registry
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
        self.when_took: Callable[[Sequence[int]], None] = lambda milliseconds: None
        """Is told of latencies."""
        self._count_attempts: dict[tuple[str, str, str], Callable[[float], None]] = {}

    def accepted(self, events: int) -> None:
        self.accepted_total += events

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

    def settled(self, items: int) -> None:
        self._settled.inc(items)

    def took(self, milliseconds: Sequence[int]) -> None:
        self.when_took(milliseconds)

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

    def source_appended(self, consumer: str, events: int, lag_s: float) -> None:
        self.accepted(events)
        self._source_appended.labels(consumer).inc(events)
        self._source_lag.labels(consumer).set(lag_s)

    def source_refused(self, consumer: str, status: int) -> None:
        self._source_refused.labels(consumer, str(status)).inc()

    def source_waiting(self, consumer: str, pending: int, unacknowledged: int, redelivered: int) -> None:
        self._source_pending.labels(consumer).set(pending)
        self._source_unacknowledged.labels(consumer).set(unacknowledged)
        self._source_redelivered.labels(consumer).set(redelivered)
