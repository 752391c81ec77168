"""Takes the messages of one consumer: pulled in batches, appended, and acknowledged after the commit.

While the store cannot be written, what is in hand is given back at once, since another node may have a store that can
be, and nothing is pulled. With a full backlog, which all nodes have in common, it is held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog
from msgspec import UNSET
from nats.aio.client import Client
from nats.aio.msg import Msg

from tocsin.ingest.batch import Batch, Ingest, Origin
from tocsin.ingest.errors import IngestError, conflict, larger_than_the_backlog, too_many_bytes
from tocsin.ingest.tracing import Ingestion, IngestTraces
from tocsin.settings import Nats
from tocsin.sources.cancelling import end_where_cancelled
from tocsin.sources.consumers import Consumer, StreamIs
from tocsin.sources.identity import by_message_id, by_sequence, derived_ids
from tocsin.sources.pulling import Ask, Pull, Stalled
from tocsin.sources.refusing import RefusalNotStored, Refusals
from tocsin.sources.status import SourceMetrics, SourceStatus
from tocsin.sources.writable import Writable
from tocsin.store.ports import BacklogFull, BatchTooLarge, EventIdConflict, EventQueue, WriteFailure

log = structlog.get_logger(__name__)

_PULL_S: Final = 5.0
_PULL_BYTES: Final = 8 * 1024 * 1024
_BESIDE_PAYLOAD_BYTES: Final = 64 * 1024
"""Subject, headers and place of a message count towards what a pull may bring."""
_STALLED_AT_MOST: Final = 3
_LONGEST_HOLD_S: Final = 5.0
_AGAIN_S: Final = 30
"""A message that cannot be dealt with at present is delivered again after so long."""
NDJSON: Final = "application/x-ndjson"

Read = tuple[Msg, Batch]
Refused = tuple[Msg, IngestError]


class GivingBack(Exception):  # noqa: N818
    """The service stops, or the store cannot be written: what is in hand goes back to the stream."""


class Consumption:
    def __init__(
        self,
        client: Client,
        settings: Nats,
        stream: StreamIs,
        consumer: Consumer,
        *,
        ingest: Ingest,
        max_bytes: int,
        queue: EventQueue,
        refusals: Refusals,
        writable: Writable,
        now_ms: Callable[[], int],
        status: SourceStatus,
        metrics: SourceMetrics,
        traces: IngestTraces | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._stream = stream
        self._consumer = consumer
        self._ingest = ingest
        self._max_bytes = max_bytes
        self._queue = queue
        self._refusals = refusals
        self._writable = writable
        self._now_ms = now_ms
        self._status = status
        self._metrics = metrics
        self._traces = traces
        self._stop = asyncio.Event()
        self._pull: Pull | None = None
        self._part = f"consumer {consumer.name}"

    def stop(self) -> None:
        """Take no more; `run` returns when what it has begun is done, or given back."""
        self._stop.set()
        self._end_pull()

    def _end_pull(self) -> None:
        if self._pull is not None:
            self._pull.end()

    async def run(self) -> None:
        """Take messages until `stop`.

        Raises:
            ConsumerGone, PullRefused, Stalled: the consumer has to be looked at again.
        """
        forget = self._writable.when_failed(self._end_pull)
        try:
            await self._pull_again_and_again()
        finally:
            forget()

    async def _pull_again_and_again(self) -> None:
        """Raises as `run` does."""
        stalled, one_alone = 0, False
        while not self._stop.is_set():
            if not self._writable.now:
                await self._wait_for_the_store()
                continue
            size_bytes = max(_PULL_BYTES, self._client.max_payload + _BESIDE_PAYLOAD_BYTES)
            ask = Ask(1, None, _PULL_S) if one_alone else Ask(self._settings.batch, size_bytes, _PULL_S)
            try:
                async with Pull(self._client, self._stream.name, self._consumer.name, ask) as self._pull:
                    await self._take_all(self._pull)
                    one_alone = self._pull.too_large
                stalled = 0
            except Stalled:
                # The request was lost, with a connection or a leader: ask again.
                stalled += 1
                if stalled >= _STALLED_AT_MOST:
                    raise
            finally:
                self._pull = None

    async def _wait_for_the_store(self) -> None:
        self._waits("the store cannot be used")
        await self._writable.again(self._stop)
        end_where_cancelled()
        if self._writable.now:
            self._heard()

    async def _take_all(self, pull: Pull) -> None:
        """Take all that the pull brings, for as long as the store can be written, and until `stop`."""
        in_hand: list[Msg] = []
        try:
            while in_hand := await pull.take():
                if not self._writable.now:
                    raise GivingBack
                await self._take(in_hand, pull)
                end_where_cancelled()
                self._heard()
            if self._stop.is_set() or not self._writable.now:
                raise GivingBack
        except GivingBack:
            # The request ends first: it would bring them again.
            in_hand += await pull.leave()
            await self._tell([message for message in in_hand if not message.is_acked], Msg.nak)
        else:
            self._heard()

    def _waits(self, why: str) -> None:
        if self._status.problem(self._part, f"{self._part} waits: {why}; events wait in stream {self._stream.name}"):
            log.warning("no events are taken", stream=self._stream.name, consumer=self._consumer.name, reason=why)

    def _heard(self) -> None:
        if self._status.mended(self._part):
            log.info("events are taken again", stream=self._stream.name, consumer=self._consumer.name)

    # -- messages ------------------------------------------------------------------------------------------------------

    async def _take(self, messages: Sequence[Msg], pull: Pull) -> None:
        read: list[Read] = []
        refused: list[Refused] = []
        now_ms = self._now_ms()
        for message in messages:
            try:
                read.append((message, await self._read(message, now_ms)))
            except IngestError as error:
                refused.append((message, error))
            except Exception:
                await self._put_off(message)
        spans = self._begin(read)
        try:
            await self._append(read, refused, pull)
        except GivingBack as error:
            _end(spans, [(message, error) for message, _ in spans])
            raise
        _end(spans, refused)
        await self._refuse(sorted(refused, key=_place))

    def _begin(self, read: Sequence[Read]) -> list[tuple[Msg, Ingestion]]:
        """The spans of those messages that are traced."""
        if self._traces is None:
            return []
        begun = [
            (message, self._traces.begin(batch, _header(message, "traceparent"), "nats")) for message, batch in read
        ]
        return [(message, span) for message, span in begun if span is not None]

    async def _read(self, message: Msg, now_ms: int) -> Batch:
        """The events of a message.

        Raises:
            IngestError: over HTTP it would be answered with 400, 409 or 413.
        """
        if len(message.data) > self._max_bytes:
            raise too_many_bytes(self._max_bytes)
        place, headers = message.metadata, message.headers or {}
        if given := headers.get("Nats-Msg-Id"):
            origin_name = by_message_id(self._stream.name, given)
        else:
            origin_name = by_sequence(self._stream.name, self._stream.created, place.sequence.stream)
        # The server's clock may be ahead of the store's.
        since_ms = min(now_ms, int(place.timestamp.timestamp() * 1000))
        origin = Origin(since_ms, lambda count: derived_ids(origin_name, count))
        if is_batch(message.data, _header(message, "content-type")):
            return await self._ingest.many(message.data, now_ms, origin)
        return self._ingest.one(message.data, now_ms, origin)

    async def _append(self, read: Sequence[Read], refused: list[Refused], pull: Pull) -> None:
        """Make them durable and acknowledge them. What the store will never take goes to `refused`; what a full backlog
        cannot take now is held until it can.

        Raises:
            GivingBack: not all of them are durable.
        """
        while read:
            events = [event for _, batch in read for event in batch.events]
            try:
                await self._queue.append(events)
            except EventIdConflict as known:
                at = _owner_of(known.index, read)
                message, batch = read[at]
                line = batch.line_of(known.index - sum([len(one.events) for _, one in read[:at]]))
                refused.append((message, conflict(line if len(batch.ids) > 1 else UNSET)))
                read = [*read[:at], *read[at + 1 :]]
            except BacklogFull as error:
                await self._hold(error.retry_after_s, read, refused, pull)
            except WriteFailure as error:
                # Where it is not known whether it was written: whoever gets it next appends the same again, safely.
                self._writable.failed()
                raise GivingBack from error
            except Exception as error:
                # About one of the messages, perhaps: it must not hold up the others.
                if len(read) > 1:
                    await self._append(read[: len(read) // 2], refused, pull)
                    read = read[len(read) // 2 :]
                elif isinstance(error, BatchTooLarge):
                    refused.append((read[0][0], larger_than_the_backlog(error)))
                    return
                else:
                    await self._put_off(read[0][0])
                    return
            else:
                await self._tell([message for message, _ in read], Msg.ack)
                oldest_ms = min([message.metadata.timestamp.timestamp() * 1000 for message, _ in read])
                lag_s = max(0.0, (self._now_ms() - oldest_ms) / 1000)
                self._metrics.source_appended(self._consumer.name, events, lag_s)
                return

    async def _hold(self, wait_s: float, read: Sequence[Read], refused: Sequence[Refused], pull: Pull) -> None:
        """Wait a while for room in the backlog, and have the server keep what is in hand from being delivered again.

        Raises:
            GivingBack: the service stops, or the store cannot be written any more.
        """
        self._waits("the backlog is full")
        held = [message for message, _ in (*read, *refused)]
        await self._tell([*held, *pull.gathered], Msg.in_progress)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(wait_s, _LONGEST_HOLD_S, self._settings.ack_wait_s / 3)):
                await self._stop.wait()
        if self._stop.is_set() or not self._writable.now:
            raise GivingBack

    async def _refuse(self, refused: Sequence[Refused]) -> None:
        """Store why, then give the message up. Where that cannot be stored, the message is delivered again later."""
        part = "refusals"
        for index, (message, error) in enumerate(refused):
            try:
                await self._refusals.publish(message, error)
            except RefusalNotStored as failure:
                sentence = (
                    f"no stream takes {self._settings.refusals_subject}: {failure}; what is refused is kept, and"
                    " comes again"
                )
                if self._status.problem(part, sentence):
                    log.error("a refusal cannot be stored", subject=self._settings.refusals_subject, error=str(failure))
                for later, _ in refused[index:]:
                    with contextlib.suppress(Exception):
                        await later.nak(_AGAIN_S)
                return
            self._status.mended(part)
            self._metrics.source_refused(self._consumer.name, error.why.status)
            await self._tell([message], Msg.term)
        if refused:
            statuses = sorted({error.why.status for _, error in refused})
            log.warning(
                "messages refused",
                stream=self._stream.name,
                consumer=self._consumer.name,
                count=len(refused),
                statuses=statuses,
            )

    async def _put_off(self, message: Msg) -> None:
        """A message that fails in a way that nobody has thought of comes again later: it is neither lost nor in the
        way. Called while the exception is handled."""
        log.exception("a message failed unexpectedly; it comes again later", sequence=message.metadata.sequence.stream)
        with contextlib.suppress(Exception):
            await message.nak(_AGAIN_S)

    async def _tell(self, messages: Iterable[Msg], verb: Callable[[Msg], object]) -> None:
        """Say so of each message. What does not arrive is made up for: the message comes again, as the same events."""
        for message in messages:
            try:
                await verb(message)  # type: ignore[misc]
            except Exception as error:
                log.debug("a message's acknowledgement was not sent", error=type(error).__name__)


def _header(message: Msg, name: str) -> str | None:
    """Names of headers are written in any case."""
    return next((value for given, value in (message.headers or {}).items() if given.lower() == name), None)


def _end(spans: Sequence[tuple[Msg, Ingestion]], failed: Sequence[tuple[Msg, Exception]]) -> None:
    for message, span in spans:
        span.end(next((error for other, error in failed if other is message), None))


def is_batch(body: bytes, content_type: str | None) -> bool:
    """Whether a message is NDJSON: as its `Content-Type` says; without one, where its first line is a whole object."""
    if content_type is not None:
        return content_type.partition(";")[0].strip().lower() == NDJSON
    first, _, rest = body.partition(b"\n")
    return bool(rest.strip()) and first.rstrip().endswith(b"}")


def _place(refused: Refused) -> int:
    """Sorts refusals as their messages lie in the stream."""
    return refused[0].metadata.sequence.stream


def _owner_of(index: int, read: Sequence[Read]) -> int:
    """Which message the event at `index` of all their events is from."""
    for at, (_, batch) in enumerate(read):
        if index < len(batch.events):
            return at
        index -= len(batch.events)
    raise AssertionError("the store has named an event that it was not given")
