"""Every metric that tocsin can expose, with its labels."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from tests.support.line import make_event
from tocsin.service.exposition import FAMILIES, Declared
from tocsin.telemetry import Metrics


def samples(families: Iterable[Metric]) -> dict[str, frozenset[str]]:
    """The labels of each sample, by its name."""
    return {
        sample.name: frozenset(sample.labels)
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def every_metric() -> dict[str, frozenset[str]]:
    """The labels of each sample that there may be, by its name."""
    metrics = Metrics()
    metrics.accepted([make_event()])
    metrics.claimed(1)
    metrics.attempt("lane", "retry", "reason")
    metrics.settled(1)
    metrics.lost(1)
    metrics.token_removed("lane")
    metrics.throttled("user")
    metrics.wrong_secret()
    metrics.source_connected("source", True)
    metrics.source_appended("consumer", [make_event()], 1.0)
    metrics.source_refused("consumer", 400)
    metrics.source_waiting("consumer", 1, 1, 1)
    found = samples(metrics.registry.collect())
    for family in FAMILIES:
        found |= _names(family)
    return found


def _names(family: Declared) -> dict[str, frozenset[str]]:
    labels = frozenset(family.labels)
    if family.kind is GaugeMetricFamily:
        return {family.name: labels}
    if family.kind is CounterMetricFamily:
        return {f"{family.name}_total": labels}
    return {f"{family.name}_bucket": labels | {"le"}, f"{family.name}_count": labels, f"{family.name}_sum": labels}
