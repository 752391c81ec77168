"""What traces the ingestion of events, where tracing is on. Whoever starts the API and the sources brings it."""

from __future__ import annotations

from typing import Protocol

from tocsin.ingest.batch import Batch


class Ingestion(Protocol):
    """A span that has begun."""

    def end(self, error: BaseException | None = None) -> None:
        """The events are durable, or they were not taken."""


class IngestTraces(Protocol):
    def begin(self, batch: Batch, traceparent: str | None, via: str) -> Ingestion | None:
        """Begin the span of one request or message, below the producer's, and note its trace in the events; None where
        it is not sampled. What is no `traceparent` counts as none (W3C Trace Context, 4.3). `via` is `http` or `nats`.
        """
