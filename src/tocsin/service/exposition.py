"""What is known at any time without being counted on the way, put together when Prometheus asks.

Every family is declared in `FAMILIES`, with its labels: dashboard, alerts and documentation are compared with these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric

from tocsin import __version__
from tocsin.domain.routes import LaneState, LaneStatus
from tocsin.histogram import Histogram
from tocsin.http2.traffic import Traffic
from tocsin.providers.base import Provider
from tocsin.store.ports import Store
from tocsin.telemetry import Metrics

Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily


class Declared(Struct, frozen=True):
    """A family of metrics. A counter's samples end in `_total`, a histogram's in `_bucket`, `_count` and `_sum`."""

    kind: type[Family]
    name: str
    help: str
    labels: Sequence[str] = ()


def _gauge(name: str, help: str, *labels: str) -> Declared:
    return Declared(GaugeMetricFamily, name, help, labels)


def _counter(name: str, help: str, *labels: str) -> Declared:
    return Declared(CounterMetricFamily, name, help, labels)


def _histogram(name: str, help: str, *labels: str) -> Declared:
    return Declared(HistogramMetricFamily, name, help, labels)


_BUILD: Final = _gauge("tocsin_build_info", "Always 1; the label has the version.", "version")
_READY: Final = _gauge("tocsin_ready", "1 where /health/ready says so.")
_LIMIT: Final = _gauge("tocsin_backlog_events_limit", "So many events may wait; more are refused.")
_LIMIT_BYTES: Final = _gauge("tocsin_backlog_bytes_limit", "So many bytes of events may wait; more are refused.")
_ACCEPTED: Final = _counter("tocsin_events_accepted", "Events accepted, by name.", "message")
_DELIVERIES: Final = _counter(
    "tocsin_deliveries",
    "Deliveries that ended, by outcome.",
    *("provider", "environment", "application", "outcome"),
)
_LATENCY: Final = _histogram(
    "tocsin_delivery_seconds", "From acceptance until the provider took it, of a sample of the deliveries.", "lane"
)
_IN_FLIGHT: Final = _gauge("tocsin_in_flight", "Deliveries on the wire.", "lane")
_WAITING: Final = _gauge("tocsin_waiting", "Deliveries waiting in memory.", "lane")
_LANE_PAUSED: Final = _gauge(
    "tocsin_lane_paused", "1 where a lane does not send: breaker open, or paused.", "lane", "state"
)
_TOPICS: Final = _gauge("tocsin_topics_paused", "Topics that are paused: misconfigured.", "lane")
_DEVICES: Final = _gauge(
    "tocsin_devices_paused", "Devices that are paused, each for itself alone: misconfigured.", "lane"
)
_FUSE: Final = _gauge(
    "tocsin_fuse_blown", "1 where dead tokens go into quarantine: too many at once.", "provider", "application"
)
_UNKNOWN: Final = _counter(
    "tocsin_unknown_answers", "Answers of a provider that no row of its table knows.", "provider"
)
_CONNECTIONS: Final = _gauge("tocsin_connections", "HTTP/2 connections open to a provider.", "origin")
_OPENED: Final = _counter("tocsin_connections_opened", "HTTP/2 connections opened to a provider.", "origin")
_GOAWAYS: Final = _counter("tocsin_goaways", "GOAWAY frames that a provider has sent.", "origin")
_STREAMS: Final = _gauge("tocsin_streams", "Requests without an answer yet.", "origin")
_STREAMS_LIMIT: Final = _gauge(
    "tocsin_streams_limit", "So many requests the open connections allow at a time.", "origin"
)
_PROVIDER_TIME: Final = _histogram(
    "tocsin_provider_seconds",
    "From when a request was given to a connection until its answer, of a sample of the requests.",
    "origin",
)
_CERTIFICATE: Final = _gauge(
    "tocsin_certificate_expiry_seconds", "Unix time at which an application's certificate ends.", "application"
)
_TOKEN_AGE: Final = _gauge(
    "tocsin_provider_token_age_seconds",
    "How old the token is with which requests to a provider are signed.",
    *("provider", "application"),
)
_COMMIT: Final = _histogram("tocsin_commit_seconds", "How long the store's commits took.")
_REPLICA_S: Final = _gauge(
    "tocsin_replica_lag_seconds", "How long a standby of the store is behind; 0 where it has everything.", "standby"
)
_REPLICA_BYTES: Final = _gauge("tocsin_replica_lag_bytes", "How many bytes of log a standby lacks.", "standby")

FAMILIES: Final = (
    *(_BUILD, _READY, _LIMIT, _LIMIT_BYTES, _ACCEPTED, _DELIVERIES, _LATENCY, _IN_FLIGHT, _WAITING, _LANE_PAUSED),
    *(_TOPICS, _DEVICES, _FUSE, _UNKNOWN, _CONNECTIONS, _OPENED, _GOAWAYS, _STREAMS, _STREAMS_LIMIT, _PROVIDER_TIME),
    *(_CERTIFICATE, _TOKEN_AGE, _COMMIT, _REPLICA_S, _REPLICA_BYTES),
)


class _Samples:
    """The families of one answer, in the order in which they were first named."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def add(self, declared: Declared, value: float, *labels: str) -> None:
        family = self._family(declared)
        assert not isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, value)

    def add_histogram(self, declared: Declared, histogram: Histogram, *labels: str) -> None:
        family = self._family(declared)
        assert isinstance(family, HistogramMetricFamily)
        buckets: list[Any] = [list(bucket) for bucket in histogram.buckets()]
        for at, shown in histogram.exemplars.items():
            buckets[at].append(Exemplar({"trace_id": shown.trace_id}, shown.seconds, shown.at_s))
        family.add_metric(labels, buckets, histogram.sum_s)

    def _family(self, declared: Declared) -> Family:
        family = self._families.get(declared.name)
        if family is None:
            family = declared.kind(declared.name, declared.help, labels=declared.labels)
            self._families[declared.name] = family
        return family


class Exposition:
    """A collector of prometheus_client. It is asked in the event loop, and waits for nothing.

    `limits` are the most events and bytes of the backlog; `traffic` is that of `providers.base.Context`.
    """

    def __init__(
        self,
        metrics: Metrics,
        store: Store,
        providers: Mapping[str, Provider],
        lanes: Callable[[], list[LaneStatus]],
        problems: Callable[[], list[str]],
        traffic: Mapping[str, Traffic],
        limits: tuple[int, int],
    ) -> None:
        self._metrics = metrics
        self._store = store
        self._providers = providers
        self._lanes = lanes
        self._problems = problems
        self._traffic = traffic
        self._limits = limits
        metrics.registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """What there may be; asked at the registration, when nothing is there yet."""
        return [declared.kind(declared.name, declared.help, labels=declared.labels) for declared in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        samples, lanes = _Samples(), self._lanes()
        samples.add(_BUILD, 1, __version__)
        samples.add(_READY, not self._problems())
        samples.add(_LIMIT, self._limits[0])
        samples.add(_LIMIT_BYTES, self._limits[1])
        for name, count in self._metrics.accepted_by_name.items():
            samples.add(_ACCEPTED, count, name)
        self._add_lanes(samples, lanes)
        self._add_deliveries(samples, lanes)
        self._add_providers(samples)
        self._add_connections(samples)
        samples.add_histogram(_COMMIT, self._store.commits)
        for name, lag_bytes, lag_s in self._metrics.replicas:
            samples.add(_REPLICA_S, lag_s, name)
            samples.add(_REPLICA_BYTES, lag_bytes, name)
        return samples

    def _add_lanes(self, samples: _Samples, lanes: Sequence[LaneStatus]) -> None:
        for lane in lanes:
            samples.add(_IN_FLIGHT, lane.in_flight, lane.name)
            samples.add(_WAITING, lane.waiting, lane.name)
            samples.add(_TOPICS, len(lane.misconfigured_topics), lane.name)
            samples.add(_DEVICES, lane.misconfigured_devices, lane.name)
            for state in (LaneState.OPEN, LaneState.PAUSED):
                samples.add(_LANE_PAUSED, lane.state is state, lane.name, state.value)
        # An account has one fuse, however many lanes it has.
        for account, blown in {(lane.provider, lane.account): lane.fuse_blown for lane in lanes}.items():
            samples.add(_FUSE, blown, *account)

    def _add_deliveries(self, samples: _Samples, lanes: Sequence[LaneStatus]) -> None:
        named = {lane.name: (lane.provider, lane.environment, lane.account) for lane in lanes}
        named[""] = ("", "", "")  # it ended before it had a lane
        for (lane, outcome), count in self._metrics.ended.items():
            # A lane by which nothing was sent since the start is shown once it is: what a sample says never goes back.
            if lane in named:
                samples.add(_DELIVERIES, count, *named[lane], outcome)
        for lane, histogram in self._metrics.latencies.items():
            samples.add_histogram(_LATENCY, histogram, lane)

    def _add_providers(self, samples: _Samples) -> None:
        for name, provider in self._providers.items():
            samples.add(_UNKNOWN, provider.unknown_answers, name)
            for account in provider.status():
                if account.expires_s is not None:
                    samples.add(_CERTIFICATE, account.expires_s, account.account)
                if account.token_age_s is not None:
                    samples.add(_TOKEN_AGE, account.token_age_s, name, account.account)

    def _add_connections(self, samples: _Samples) -> None:
        now = {origin: [0, 0, 0] for origin in self._traffic}
        for provider in self._providers.values():
            for pool in provider.pools():
                of_origin = now.setdefault(pool.origin, [0, 0, 0])
                of_origin[0] += pool.connections
                of_origin[1] += pool.in_flight
                of_origin[2] += pool.room
        for origin, (connections, streams, room) in now.items():
            samples.add(_CONNECTIONS, connections, origin)
            samples.add(_STREAMS, streams, origin)
            samples.add(_STREAMS_LIMIT, room, origin)
        for origin, traffic in self._traffic.items():
            samples.add(_OPENED, traffic.opened, origin)
            samples.add(_GOAWAYS, traffic.goaways, origin)
            samples.add_histogram(_PROVIDER_TIME, traffic.took, origin)
