"""Traces events by OpenTelemetry: ingest → claim → send → settle, each a span below the one before it.

Only what is sampled costs anything: its trace goes with the event (`Event.trace`), also through the store, and whoever
delivers it, perhaps another process after a crash, goes on with it. Spans are sent by a thread of the library; what it
cannot send, it drops. No span holds a token, a user, or a text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tocsin import __version__
from tocsin.delivery.open_items import Delivery, OpenItem
from tocsin.delivery.receipts import label
from tocsin.delivery.tracing import ItemTrace
from tocsin.histogram import Exemplar
from tocsin.ingest.batch import Batch
from tocsin.settings import Tracing as Settings
from tocsin.store.records import Attempt, Result

_MOST_OF_A_BATCH: Final = 100
"""So many events of one request are traced."""
_MOST_WAITING: Final = 8192
_EVERY_MS: Final = 1000
_LAST_MS: Final = 1500
"""For so long what is left is sent at the end."""
_FINE: Final = frozenset({Result.DELIVERED, Result.CANCELLED})

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """See `ingest.tracing.IngestTraces` and `delivery.tracing.DeliveryTraces`. `exemplar` is told of each delivery that
    was traced, by its lane."""

    def __init__(
        self,
        settings: Settings,
        now_ms: Callable[[], int],
        exemplar: Callable[[str, Exemplar], None],
        exporter: SpanExporter | None = None,
    ) -> None:
        self.now_ms = now_ms
        self._exemplar = exemplar
        if exporter is None:
            ca_file = None if settings.ca_file is None else str(settings.ca_file)
            exporter = OTLPSpanExporter(endpoint=settings.endpoint, certificate_file=ca_file)
        self._processor = BatchSpanProcessor(exporter, max_queue_size=_MOST_WAITING, schedule_delay_millis=_EVERY_MS)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.ratio)),
            resource=Resource.create({"service.name": "tocsin", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("tocsin", __version__)

    # -- ingest.tracing.IngestTraces -----------------------------------------------------------------------------------

    def begin(self, batch: Batch, traceparent: str | None, via: str) -> Ingested | None:
        parent = _propagator.extract({} if traceparent is None else {"traceparent": traceparent})
        kind = SpanKind.SERVER if via == "http" else SpanKind.CONSUMER
        span = self._tracer.start_span("ingest", parent, kind, start_time=_ns(self.now_ms()))
        if not isinstance(span, Span) or not span.is_recording():
            return None
        span.set_attributes({"tocsin.via": via, "tocsin.events": len(batch.events)})
        if len(batch.events) == 1:
            span.set_attributes(_about(batch.events[0].id, batch.events[0].message))
        context = span.get_span_context()
        trace = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}".encode()
        traced = [replace(event, trace=trace) for event in batch.events[:_MOST_OF_A_BATCH]]
        batch.events[:_MOST_OF_A_BATCH] = traced
        return Ingested(span, self.now_ms)

    # -- delivery.tracing.DeliveryTraces -------------------------------------------------------------------------------

    def claimed(self, items: Sequence[OpenItem], now_ms: int) -> None:
        for item in items:
            event = item.item.event
            if not event.trace:
                continue
            # Since it was accepted, or since its retry was due: how long it has waited for us.
            first = item.item.targets is None
            begun_ms = min(event.accepted_ms, now_ms) if first else now_ms
            parent = _propagator.extract({"traceparent": event.trace.decode("ascii", "replace")})
            span = self._tracer.start_span("claim", parent, start_time=_ns(begun_ms))
            span.set_attributes({**_about(event.id, event.message), "tocsin.round": item.item.round})
            span.end(_ns(now_ms))
            item.trace = ItemTrace(span, {})

    def sent(self, deliveries: Sequence[Delivery], now_ms: int) -> None:
        for delivery in deliveries:
            trace = delivery.item.trace
            if trace is not None:
                trace.sent_ms.setdefault(delivery.device.key, []).append(now_ms)

    def settled(self, items: Sequence[OpenItem], began_ms: int) -> None:
        for item in items:
            if item.trace is not None:
                self._settled(item, item.trace, began_ms)

    def _settled(self, item: OpenItem, trace: ItemTrace, began_ms: int) -> None:
        parent, event = set_span_in_context(trace.claim), item.item.event
        for attempt in item.attempts:
            sent_ms = trace.sent_ms.get(attempt.device)
            if sent_ms:
                self._attempted(attempt, sent_ms.pop(0), parent)
        span = self._tracer.start_span("settle", parent, start_time=_ns(began_ms))
        span.set_attributes({**_about(event.id, event.message), "tocsin.attempts": len(item.attempts)})
        span.end(_ns(self.now_ms()))
        last = item.attempts[-1] if item.attempts else None
        if last is not None and last.result == Result.DELIVERED:
            trace_id = format_trace_id(trace.claim.get_span_context().trace_id)
            took_s = (last.at_ms - event.accepted_ms) / 1000
            self._exemplar(last.lane, Exemplar(took_s, trace_id, last.at_ms / 1000))

    def _attempted(self, attempt: Attempt, sent_ms: int, parent: Any) -> None:
        span = self._tracer.start_span("send", parent, SpanKind.CLIENT, start_time=_ns(sent_ms))
        span.set_attributes(
            {
                "tocsin.lane": attempt.lane,
                "tocsin.result": str(attempt.result),
                "tocsin.attempt": attempt.number,
                "http.response.status_code": attempt.status,
            }
        )
        if attempt.result not in _FINE:
            reason = label(attempt.status, attempt.reason)
            span.set_attribute("tocsin.reason", reason)
            span.set_status(Status(StatusCode.ERROR, reason))
        span.end(_ns(max(sent_ms, attempt.at_ms)))

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Send what is left, for a short time; whoever cannot be reached is not waited for."""
        ending = threading.Thread(target=self._end, name="tracing-end", daemon=True)
        ending.start()
        ending.join(_LAST_MS / 1000)

    def _end(self) -> None:
        self._processor.force_flush(_LAST_MS)
        self._provider.shutdown()


class Ingested:
    """See `ingest.tracing.Ingestion`."""

    def __init__(self, span: Span, now_ms: Callable[[], int]) -> None:
        self._span = span
        self._now_ms = now_ms

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            # Not its text: it may name what was sent.
            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        self._span.end(_ns(self._now_ms()))


def _about(event_id: str, message: str) -> dict[str, str]:
    return {"tocsin.event_id": event_id, "tocsin.event": message}


def _ns(ms: int) -> int:
    return ms * 1_000_000
