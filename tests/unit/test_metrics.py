"""What is counted, and how it is put together when it is asked for."""

from __future__ import annotations

from bisect import bisect_right
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.support.line import make_event

from tocsin.domain.routes import LaneState, LaneStatus
from tocsin.histogram import COMMIT_S, Histogram
from tocsin.http2.traffic import Traffic
from tocsin.service.exposition import Exposition
from tocsin.telemetry import Metrics

LANE = LaneStatus(
    "apns:production:app", LaneState.RUNNING, "", 0, 0, provider="apns", environment="production", account="app"
)


def exposed(metrics: Metrics, lanes: list[LaneStatus], traffic: dict[str, Traffic] | None = None) -> Exposition:
    store: Any = SimpleNamespace(commits=Histogram(COMMIT_S))
    return Exposition(metrics, store, {}, lambda: lanes, list, traffic or {}, (10, 20))


def deliveries(metrics: Metrics, provider: str, environment: str, application: str, outcome: str) -> float | None:
    labels = {"provider": provider, "environment": environment, "application": application, "outcome": outcome}
    return metrics.registry.get_sample_value("tocsin_deliveries_total", labels)


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_bucket_counts_all_that_took_no_longer_than_its_bound(seconds: list[float]) -> None:
    bounds_s = (0.5, 1.0, 10.0)
    histogram = Histogram(bounds_s)
    histogram.observe(seconds)
    ordered = sorted(seconds)
    expected = [(str(bound), bisect_right(ordered, bound)) for bound in bounds_s]
    assert histogram.buckets() == [*expected, ("+Inf", len(seconds))]
    assert histogram.count == len(seconds)


def test_deliveries_are_counted_once_by_what_their_lane_is_made_of() -> None:
    metrics = Metrics()
    exposed(metrics, [LANE])
    metrics.attempt(LANE.name, "retry", "TooManyRequests")
    metrics.attempt(LANE.name, "misconfigured", "InvalidProviderToken")
    metrics.attempt(LANE.name, "delivered", "", 3)
    metrics.attempt(LANE.name, "refused", "PayloadTooLarge")
    metrics.attempt("", "expired", "")
    assert deliveries(metrics, "apns", "production", "app", "delivered") == 3
    assert deliveries(metrics, "apns", "production", "app", "refused") == 1
    assert deliveries(metrics, "apns", "production", "app", "retry") is None
    assert deliveries(metrics, "apns", "production", "app", "misconfigured") is None
    assert deliveries(metrics, "", "", "", "expired") == 1
    assert (metrics.sent_total, metrics.failed_total) == (3, 4)


def test_a_delivery_that_ended_before_its_lane_was_made_is_shown_with_the_lane_and_never_elsewhere() -> None:
    metrics = Metrics()
    lanes: list[LaneStatus] = []
    exposed(metrics, lanes)
    metrics.attempt(LANE.name, "cancelled", "")
    assert deliveries(metrics, "", "", "", "cancelled") is None
    lanes.append(LANE)
    assert deliveries(metrics, "apns", "production", "app", "cancelled") == 1


def test_latencies_are_told_to_the_figures_and_counted_by_lane() -> None:
    metrics = Metrics()
    told: list[int] = []
    metrics.when_took = told.extend
    exposed(metrics, [LANE])
    metrics.took([("a", 20), ("b", 400), ("a", 30)])
    assert told == [20, 400, 30]
    value = metrics.registry.get_sample_value
    assert value("tocsin_delivery_seconds_count", {"lane": "a"}) == 2
    assert value("tocsin_delivery_seconds_sum", {"lane": "a"}) == 0.05
    assert value("tocsin_delivery_seconds_bucket", {"lane": "b", "le": "0.25"}) == 0
    assert value("tocsin_delivery_seconds_bucket", {"lane": "b", "le": "0.5"}) == 1


def test_accepted_events_are_counted_by_their_name() -> None:
    metrics = Metrics()
    exposed(metrics, [])
    metrics.accepted([make_event(), make_event(message="dialplan_callreverse_start"), make_event()])
    value = metrics.registry.get_sample_value
    assert value("tocsin_events_accepted_total", {"message": "dialplan_callreverse_start"}) == 1
    assert value("tocsin_events_accepted_total", {"message": make_event().message}) == 2
    assert metrics.accepted_total == 3


def test_a_server_that_is_not_ready_says_so_in_its_metrics() -> None:
    problems: list[str] = []
    metrics = Metrics()
    store: Any = SimpleNamespace(commits=Histogram(COMMIT_S))
    Exposition(metrics, store, {}, list, lambda: problems, {}, (10, 20))
    assert metrics.registry.get_sample_value("tocsin_ready") == 1
    problems.append("the store cannot write")
    assert metrics.registry.get_sample_value("tocsin_ready") == 0


def test_what_an_origin_has_had_outlives_its_connections() -> None:
    traffic = Traffic()
    traffic.opened, traffic.goaways = 3, 1
    metrics = Metrics()
    exposed(metrics, [], {"https://api.example": traffic})
    value, origin = metrics.registry.get_sample_value, {"origin": "https://api.example"}
    assert value("tocsin_connections_opened_total", origin) == 3
    assert value("tocsin_goaways_total", origin) == 1
    assert value("tocsin_connections", origin) == 0
