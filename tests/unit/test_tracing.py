"""What is traced, and what is not."""

from __future__ import annotations

import time

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.support.line import make_event

from tocsin.ingest.batch import Batch, Ingest
from tocsin.providers.rules import RULES
from tocsin.service import wiring
from tocsin.service.tracing import Tracing
from tocsin.settings import Settings, SettingsError, load
from tocsin.settings import Tracing as TracingSettings
from tocsin.store.envelope import enclosed, parted
from tocsin.telemetry import Metrics

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def tracing(exporter: InMemorySpanExporter, ratio: float) -> Tracing:
    settings = TracingSettings(endpoint="http://127.0.0.1:4318/v1/traces", ratio=ratio)
    return Tracing(settings, lambda: int(time.time() * 1000), lambda lane, exemplar: None, exporter)


def batch(size: int = 1) -> Batch:
    found = Ingest(Settings(), RULES)._batch(0, None)
    found.events += [make_event() for _ in range(size)]
    return found


@pytest.mark.parametrize(
    ("ratio", "traceparent", "traced"),
    [
        (1.0, None, True),
        (0.0, None, False),
        (0.0, f"00-{TRACE}-00f067aa0ba902b7-01", True),
        (1.0, f"00-{TRACE}-00f067aa0ba902b7-00", False),
        (0.0, "00-nonsense", False),
        (1.0, "00-nonsense", True),
        (1.0, f"00-{'0' * 32}-00f067aa0ba902b7-01", True),
        (1.0, "x" * 100_000, True),
    ],
)
def test_the_producer_says_whether_an_event_is_traced_and_else_the_ratio_does(
    exporter: InMemorySpanExporter, ratio: float, traceparent: str | None, traced: bool
) -> None:
    events = batch()
    own = tracing(exporter, ratio)
    span = own.begin(events, traceparent, "http")
    assert bool(events.events[0].trace) is (span is not None) is traced
    if span is not None:
        span.end()
    own.close()
    assert len(exporter.get_finished_spans()) == traced
    if traceparent is not None and TRACE in traceparent and traced:
        assert TRACE in events.events[0].trace.decode()


def test_of_a_large_batch_a_hundred_events_are_traced(exporter: InMemorySpanExporter) -> None:
    events = batch(250)
    own = tracing(exporter, 1.0)
    own.begin(events, None, "http")
    assert sum(bool(event.trace) for event in events.events) == 100
    assert len(events.events) == 250
    own.close()


def test_a_trace_goes_through_the_store_beside_the_content() -> None:
    event = make_event()
    assert parted(enclosed(event)) == (event.body, b"")
    trace = f"00-{TRACE}-00f067aa0ba902b7-01".encode()
    traced = type(event)(event.id, event.owner, event.message, 0, 0, event.body, trace)
    assert parted(enclosed(traced)) == (event.body, trace)
    for body in (b"", b"{}", b"x" * 55, b"\n00-"):
        assert parted(body) == (body, b"")


def test_without_the_package_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tocsin.service.tracing", None)
    settings = Settings(tracing={"endpoint": "http://127.0.0.1:4318/v1/traces"})  # type: ignore[arg-type]
    with pytest.raises(wiring.MissingExtra, match=r"pip install 'tocsin\[tracing\]'"):
        wiring._tracing(settings, None, Metrics())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["127.0.0.1:4318", "ftp://127.0.0.1/v1/traces", "http://u:p@127.0.0.1/v1/traces"])
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"tracing\.endpoint: must be a http:// or https:// URL"):
        load(None, {"TOCSIN_TRACING__ENDPOINT": wrong})
