"""NATS JetStream as a source of events (`[sources.nats]`): connects, looks after its consumers, and starts again.

Whatever fails here is told in readiness, in the log and in the metrics, and tried again for ever. It never ends the
service: HTTP ingest and delivery do not notice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError, ServiceUnavailableError

from tocsin.domain.backoff import doubled_s
from tocsin.ingest.batch import Ingest
from tocsin.ingest.tracing import IngestTraces
from tocsin.settings import Nats, Settings
from tocsin.sources.cancelling import end_where_cancelled
from tocsin.sources.connecting import CannotConnect, connect
from tocsin.sources.consumers import Consumer, StreamIs, acknowledged, consumers_of, ensure, look_at_stream
from tocsin.sources.consumption import Consumption
from tocsin.sources.pulling import ConsumerGone, Stalled
from tocsin.sources.refusing import Refusals
from tocsin.sources.status import SourceMetrics, SourceStatus
from tocsin.sources.writable import Writable
from tocsin.store.ports import EventQueue, Positions, Store, WriteFailure

log = structlog.get_logger(__name__)

_API_S: Final = 5.0
_LOOK_EVERY_S: Final = 5.0
_LAST_LOOK_S: Final = 1.0
_AGAIN_S: Final = (0.5, 15.0)
"""After a failure: at first, and at most."""
_FAILURES_A_CONNECTION: Final = 5
"""After so many failures in a row a connection that seems to stand is replaced."""
_CLOSE_S: Final = 2.0
_NAME: Final = "nats"


class NatsSource:
    """`run` takes events until `stop`."""

    def __init__(
        self,
        settings: Nats,
        ingest: Ingest,
        max_bytes: int,
        queue: EventQueue,
        positions: Positions,
        now_ms: Callable[[], int],
        metrics: SourceMetrics,
        traces: IngestTraces | None = None,
    ) -> None:
        self._settings = settings
        self._ingest = ingest
        self._max_bytes = max_bytes
        self._queue = queue
        self._positions = positions
        self._now_ms = now_ms
        self._metrics = metrics
        self._traces = traces
        self._status = SourceStatus()
        self._writable = Writable(positions, now_ms)
        self._stop = asyncio.Event()
        self._consumptions: list[Consumption] = []
        self._acknowledged: dict[str, int] = {}
        """By consumer, up to which message of the stream `_created`: one that was deleted is made anew from there. The
        store has it, too, for the next process, and for other nodes."""
        self._created: str | None = None
        self._noted: dict[str, int] = {}
        """By consumer, which position the store has."""
        self._failures = 0
        self._closing = False
        """We end the connection ourselves: that it is lost is no news."""

    def problems(self) -> list[str]:
        """What is wrong at present, a sentence each."""
        return [f"{_NAME}: {sentence}" for sentence in self._status.problems()]

    def stop(self) -> None:
        """Take nothing more; `run` returns when what was begun is done, or given back to the stream."""
        self._stop.set()
        for consumption in self._consumptions:
            consumption.stop()

    async def run(self) -> None:
        self._metrics.source_connected(_NAME, False)
        while not self._stop.is_set():
            try:
                await self._connect_and_serve()
            except CannotConnect as error:
                self._failed("connection", f"not connected: {error}")
                await self._pause()
            except Exception:
                self._failed("connection", "an unexpected error, which the log has; connecting again")
                log.exception("taking events from NATS failed unexpectedly; it begins again")
                await self._pause()

    async def _connect_and_serve(self) -> None:
        """Take events by one connection, for as long as it is of use.

        Raises:
            CannotConnect: there is none.
        """
        client = await connect(self._settings, self._connected)
        self._closing = False
        self._connected(True)
        try:
            await self._serve(client)
        finally:
            self._closing = True
            self._metrics.source_connected(_NAME, False)
            await _close(client)

    def _connected(self, connected: bool) -> None:
        self._metrics.source_connected(_NAME, connected)
        if connected:
            if self._status.mended("connection"):
                log.info("connected to NATS again")
        elif not self._closing:
            self._failed("connection", "the connection is lost; connecting again")

    async def _serve(self, client: Client) -> None:
        """Take events by this connection until `stop`, or until it is of no use any more."""
        js = client.jetstream(timeout=_API_S)
        self._failures = 0
        while not (self._stop.is_set() or client.is_closed or self._failures >= _FAILURES_A_CONNECTION):
            try:
                stream = await self._set_up(js)
                await self._take(client, js, stream)
            except* Stalled as error:
                # The server has answered no request for messages: this connection may be of no use any more.
                self._failed("stream", told(error))
                self._failures = _FAILURES_A_CONNECTION
            except* Exception as error:
                self._failed("stream", told(error))
                await self._pause()

    async def _set_up(self, js: JetStreamContext) -> StreamIs:
        """The stream and its consumers, made where they are missing."""
        stream = await look_at_stream(js, self._settings)
        if stream.created != self._created:
            self._created = stream.created
            self._acknowledged.clear()
            self._noted.clear()
            for weakness in stream.weaknesses:
                log.warning(weakness, stream=stream.name)
        for consumer in consumers_of(self._settings):
            floor = await self._positions.get(_position(stream, consumer))
            if (own := self._acknowledged.get(consumer.name)) is not None:
                floor = own if floor is None else max(floor, own)
            self._acknowledged[consumer.name] = await ensure(js, self._settings, stream, consumer, floor)
        return stream

    async def _take(self, client: Client, js: JetStreamContext, stream: StreamIs) -> None:
        """Take events until `stop`, or until something has to be set up again."""
        refusals = Refusals(client, js, self._settings.refusals_subject)
        consumers = consumers_of(self._settings)
        self._consumptions = [
            Consumption(
                client,
                self._settings,
                stream,
                consumer,
                ingest=self._ingest,
                max_bytes=self._max_bytes,
                queue=self._queue,
                refusals=refusals,
                writable=self._writable,
                now_ms=self._now_ms,
                status=self._status,
                metrics=self._metrics,
                traces=self._traces,
            )
            for consumer in consumers
        ]
        if self._stop.is_set():
            self.stop()
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch(js, stream, consumers))
                taking = [tasks.create_task(consumption.run()) for consumption in self._consumptions]
                await asyncio.gather(*taking)
                watching.cancel()
                if client.is_connected:
                    await self._look_last(js, stream, consumers)
        finally:
            self._consumptions = []

    async def _watch(self, js: JetStreamContext, stream: StreamIs, consumers: list[Consumer]) -> None:
        """Look at the consumers now and then.

        Raises:
            ConsumerGone: one was deleted.
        """
        while True:
            await self._look(js, stream, consumers)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look_last(self, js: JetStreamContext, stream: StreamIs, consumers: list[Consumer]) -> None:
        """Note how far the consumers are. A server that is gone just now delays no stop: only where a consumer is then
        deleted, what was acknowledged since the last look is taken again, and known."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_LOOK_S):
                await self._look(js, stream, consumers)

    async def _look(self, js: JetStreamContext, stream: StreamIs, consumers: list[Consumer]) -> None:
        """Raises as `_watch` does."""
        for consumer in consumers:
            try:
                info = await js.consumer_info(stream.name, consumer.name, timeout=_API_S)
            except NotFoundError:
                raise ConsumerGone(f"consumer {consumer.name!r} was deleted; it is made again") from None
            except Exception as error:
                log.debug("a consumer's figures cannot be had", consumer=consumer.name, error=told(error))
                info = None
            end_where_cancelled()
            if info is None:
                continue
            self._failures = 0
            if self._status.mended("stream"):
                log.info("the stream can be used again", stream=stream.name)
            await self._note(stream, consumer, acknowledged(info))
            self._metrics.source_waiting(
                consumer.name, info.num_pending or 0, info.num_ack_pending or 0, info.num_redelivered or 0
            )

    async def _note(self, stream: StreamIs, consumer: Consumer, floor: int) -> None:
        """The consumer has been acknowledged up to there, on whichever node."""
        self._acknowledged[consumer.name] = max(self._acknowledged[consumer.name], floor)
        if self._noted.get(consumer.name) == floor:
            return
        try:
            await self._positions.set(_position(stream, consumer), floor)
        except WriteFailure as error:
            log.debug("a consumer's position is not noted yet", consumer=consumer.name, error=str(error))
        else:
            self._noted[consumer.name] = floor

    def _failed(self, part: str, sentence: str) -> None:
        self._failures += 1
        if self._status.problem(part, sentence):
            log.warning("events cannot be taken from NATS", part=part, reason=sentence)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(doubled_s(*_AGAIN_S, self._failures)):
                await self._stop.wait()


def source_of(
    settings: Settings, ingest: Ingest, store: Store, metrics: SourceMetrics, traces: IngestTraces | None = None
) -> NatsSource | None:
    """The source that the settings want, if they want one."""
    wanted = settings.sources.nats
    if wanted is None:
        return None
    most, now_ms = settings.ingest.max_bytes, store.now_ms
    return NatsSource(wanted, ingest, most, store.queue, store.positions, now_ms, metrics, traces)


def _position(stream: StreamIs, consumer: Consumer) -> str:
    """By what the store knows how far a consumer is. A stream that is made anew counts from 1 again."""
    return f"nats {stream.name} {stream.created} {consumer.name}"


def told(error: BaseException) -> str:
    """The first reason of an error, or of a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case ServiceUnavailableError():
            return "JetStream does not answer: it is not enabled, or has no leader at present"
        case TimeoutError():
            return "no answer in time"
        case _:
            return str(error).removeprefix("nats: ") or type(error).__name__


async def _close(client: Client) -> None:
    """What was acknowledged is still sent."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            if client.is_connected:
                await client.flush(timeout=1)
            await client.close()
    except Exception as error:
        log.debug("closing the connection to NATS failed", error=told(error))
