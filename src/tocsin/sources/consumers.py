"""The durable consumers of the stream: made where they are missing, and looked at before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import structlog
from msgspec import Struct
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from tocsin.settings import Nats

log = structlog.get_logger(__name__)

_DESCRIPTION: Final = "tocsin"
"""By this, a consumer is told from one that somebody else has made."""
_UNACKNOWLEDGED: Final = 100_000
"""Those that come again later are among them, as where no stream takes their refusals: with so many nothing more is
delivered. What a process has in hand is bounded by what it asks for."""
_UNACKNOWLEDGED_BATCHES: Final = 4
"""Where the servers do not allow so many."""
_TOO_MANY_UNACKNOWLEDGED: Final = 10121
"""The servers' code for that."""
_REPLICAS: Final = 3


class WrongSetup(Exception):  # noqa: N818
    """The stream or a consumer is not as it must be; the message says what to change."""


class StreamIs(Struct, frozen=True):
    """The stream as it is now."""

    name: str
    created: str
    """When it was made: another one of the same name counts its messages anew."""
    starts_anywhere: bool
    """Whether a consumer may begin behind the first message: not where each message is removed with its
    acknowledgement, and so is not there any more."""
    last: int
    """Its last message so far."""
    replicas: int
    in_memory: bool
    weaknesses: tuple[str, ...]
    """What the acknowledgements that producers get are not worth, a sentence each."""


class Consumer(Struct, frozen=True):
    """One durable consumer, as the settings want it."""

    name: str
    subjects: tuple[str, ...]


def consumers_of(settings: Nats) -> list[Consumer]:
    """Those that the settings want, the urgent one first."""
    wanted = [Consumer(settings.consumer, settings.subjects)]
    if settings.urgent_subjects:
        wanted.insert(0, Consumer(settings.urgent_consumer, settings.urgent_subjects))
    return wanted


async def look_at_stream(js: JetStreamContext, settings: Nats) -> StreamIs:
    """The stream.

    Raises:
        WrongSetup: there is none.
    """
    try:
        info = await js.stream_info(settings.stream)
    except NotFoundError:
        raise WrongSetup(f"there is no stream {settings.stream!r}; create it") from None
    created = "" if info.created is None else info.created.isoformat()
    anywhere = info.config.retention != RetentionPolicy.WORK_QUEUE
    return StreamIs(
        name=settings.stream,
        created=created,
        starts_anywhere=anywhere,
        last=info.state.last_seq,
        replicas=info.config.num_replicas or 1,
        in_memory=info.config.storage == StorageType.MEMORY,
        weaknesses=tuple(_weaknesses(info.config)),
    )


def _weaknesses(config: StreamConfig) -> Iterator[str]:
    if config.no_ack:
        yield "the stream acknowledges nothing (no_ack): producers do not learn what was lost"
    if config.storage == StorageType.MEMORY:
        yield "the stream is in memory: what it has acknowledged is lost with its servers"
    elif (config.num_replicas or 1) < _REPLICAS:
        yield (
            "the stream has fewer than three replicas, and whether its servers sync before they acknowledge"
            " (sync_interval: always) is not known: a power cut may lose what it has acknowledged"
        )


async def ensure(js: JetStreamContext, settings: Nats, stream: StreamIs, consumer: Consumer, floor: int | None) -> int:
    """Make the consumer where there is none, to begin after the message `floor` (None: at the first one). Returns up to
    which message it has been acknowledged.

    Raises:
        WrongSetup: there is one that cannot be used.
    """
    found = await look_at_consumer(js, stream, consumer)
    if found is None:
        if floor is not None and floor > stream.last:
            # An older state of the stream was restored: nothing that has come since may be passed over.
            log.warning(
                "the stream ends before what was taken of it", stream=stream.name, last=stream.last, taken=floor
            )
            floor = None
        start = floor + 1 if floor is not None and stream.starts_anywhere else None
        await _make(js, stream, settings, _config(settings, consumer, start))
        log.info("consumer created", stream=stream.name, consumer=consumer.name, first=start or "the first message")
        return 0 if floor is None else floor
    await _raise_limit(js, stream, found)
    return acknowledged(found)


async def _make(js: JetStreamContext, stream: StreamIs, settings: Nats, config: ConsumerConfig) -> None:
    try:
        await js.add_consumer(stream.name, config)
    except APIError as error:
        if error.err_code != _TOO_MANY_UNACKNOWLEDGED:
            raise
        fewer = config.evolve(max_ack_pending=_UNACKNOWLEDGED_BATCHES * settings.batch)
        await js.add_consumer(stream.name, fewer)


async def _raise_limit(js: JetStreamContext, stream: StreamIs, found: ConsumerInfo) -> None:
    """Earlier versions made consumers that stood still with a few thousand unacknowledged messages."""
    config = found.config
    if config.description != _DESCRIPTION or not 0 < (config.max_ack_pending or 0) < _UNACKNOWLEDGED:
        return
    try:
        await js.add_consumer(stream.name, config.evolve(max_ack_pending=_UNACKNOWLEDGED))
    except Exception as error:
        # It can be used as it is: the servers may not allow so many, or not allow to change it.
        log.warning(
            "a consumer keeps its limit of unacknowledged messages",
            stream=stream.name,
            consumer=found.name,
            limit=config.max_ack_pending,
            reason=str(error) or type(error).__name__,
        )


async def look_at_consumer(js: JetStreamContext, stream: StreamIs, consumer: Consumer) -> ConsumerInfo | None:
    """The consumer as it is; None where there is none, which `ensure` would make.

    Raises:
        WrongSetup: there is one that cannot be used.
    """
    try:
        found: ConsumerInfo = await js.consumer_info(stream.name, consumer.name)
    except NotFoundError:
        return None
    _refuse_unusable(found, stream, consumer)
    return found


def _refuse_unusable(found: ConsumerInfo, stream: StreamIs, consumer: Consumer) -> None:
    if (wrong := _wrong(found, consumer)) is not None:
        raise WrongSetup(f"consumer {consumer.name!r} of stream {stream.name!r} {wrong}")


def acknowledged(info: ConsumerInfo) -> int:
    """Up to which message of the stream a consumer has been acknowledged."""
    return 0 if info.ack_floor is None else info.ack_floor.stream_seq


def _config(settings: Nats, consumer: Consumer, start: int | None) -> ConsumerConfig:
    one = consumer.subjects[0] if len(consumer.subjects) == 1 else None
    return ConsumerConfig(
        durable_name=consumer.name,
        description=_DESCRIPTION,
        deliver_policy=DeliverPolicy.ALL if start is None else DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=start,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=settings.ack_wait_s,
        max_deliver=-1,
        max_ack_pending=_UNACKNOWLEDGED,
        filter_subject=one,
        filter_subjects=None if one is not None else list(consumer.subjects),
    )


def _wrong(found: ConsumerInfo, wanted: Consumer) -> str | None:
    """Why a consumer that somebody has made cannot be used."""
    config = found.config
    filters = set(config.filter_subjects or ([config.filter_subject] if config.filter_subject else []))
    if config.deliver_subject:
        return "pushes to a subject; delete it, and it is made as a pull consumer"
    if config.ack_policy != AckPolicy.EXPLICIT:
        return "does not ask for an acknowledgement of each message; it needs ack_policy explicit"
    if config.max_deliver is not None and config.max_deliver > 0:
        return f"gives a message up after {config.max_deliver} deliveries; set max_deliver to -1"
    if filters != set(wanted.subjects):
        return f"filters {', '.join(sorted(filters)) or 'nothing'}, the settings {', '.join(wanted.subjects)}"
    return None
