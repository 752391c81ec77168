"""A stream with events on a real server, and a source that takes them into a real store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from tests.support.nats import NatsServer, client_of

from tocsin.domain.events import EventId
from tocsin.ingest.batch import Ingest
from tocsin.ingest.tracing import IngestTraces
from tocsin.providers.rules import RULES
from tocsin.settings import Nats, Settings, Sources
from tocsin.sources.nats import NatsSource, source_of
from tocsin.store.records import EventRecord
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore
from tocsin.telemetry import Metrics

STREAM, NORMAL, URGENT, REFUSALS = "EVENTS", "events.normal", "events.urgent", "refused.events"
OWNER = "9aed5e94-3803-11e3-8475-0024e8f90cc0"


def fax(number: int = 0, *, id: str | None = None, **more: object) -> dict[str, Any]:
    """An event; `number` tells it from others."""
    event: dict[str, Any] = {"owner": OWNER, "message": "fax_new", "fax": str(UUID(int=number)), "phone": ""}
    event |= {"page_count": number % 1000, **more}
    return event if id is None else event | {"event_id": id}


def encoded(*events: dict[str, Any]) -> bytes:
    return b"\n".join([json.dumps(event).encode() for event in events])


async def eventually(
    holds: Callable[[], Any | Awaitable[Any]], within_s: float = 30.0, told: Callable[[], object] = str
) -> None:
    deadline = time.monotonic() + within_s
    while True:
        held = holds()
        if isinstance(held, Awaitable):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"not within {within_s} s: {told()}"
        await asyncio.sleep(0.03)


class Bus:
    """The stream, as a backend and an operator see it."""

    def __init__(self, servers: Sequence[NatsServer], client: Client) -> None:
        self.servers = servers
        self.client = client
        self.js: JetStreamContext = client.jetstream(timeout=5)

    async def create(self, **options: Any) -> None:
        """The stream with events, and one for refusals."""
        replicas = len(self.servers)
        await self.js.add_stream(StreamConfig(STREAM, subjects=["events.>"], num_replicas=replicas, **options))
        await self.js.add_stream(StreamConfig("REFUSED", subjects=["refused.>"], num_replicas=replicas))

    async def publish(
        self, body: bytes, *, subject: str = NORMAL, headers: dict[str, str] | None = None, within_s: float = 30.0
    ) -> int:
        """Publish until the stream has acknowledged it, as a backend does; its sequence."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                return (await self.js.publish(subject, body, headers=headers, timeout=2)).seq
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def refusals(self, count: int, within_s: float = 30.0) -> list[Msg]:
        """So many refusals, in order; and no more come within half a second."""
        subscription = await self.js.subscribe(REFUSALS, ordered_consumer=True)
        try:
            found = [await subscription.next_msg(timeout=within_s) for _ in range(count)]
            with contextlib.suppress(TimeoutError):
                found.append(await subscription.next_msg(timeout=0.5))
                raise AssertionError(f"more than {count}: {found[-1].headers}")
            return found
        finally:
            await subscription.unsubscribe()

    async def unacknowledged(self, consumer: str = "tocsin") -> int:
        """How many messages the consumer has not acknowledged, delivered or not."""
        info = await self.js.consumer_info(STREAM, consumer)
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def is_done(self, consumer: str = "tocsin") -> bool:
        try:
            return await self.unacknowledged(consumer) == 0
        except Exception:  # the server is down, or there is no consumer yet
            return False


@contextlib.asynccontextmanager
async def bus_on(*servers: NatsServer, client: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Bus]:
    """`client` is how the backend signs in; the others are the stream's."""
    async with client_of(*servers, **(client or {})) as connected:
        bus = Bus(servers, connected)
        await bus.create(**options)
        yield bus


def nats_settings(*servers: NatsServer, **more: Any) -> Nats:
    given: dict[str, Any] = {
        "servers": [server.url for server in servers],
        "stream": STREAM,
        "subjects": [NORMAL],
        "urgent_subjects": [URGENT],
        "refusals_subject": REFUSALS,
        "ack_wait_s": 5,
    }
    return Nats.model_validate(given | more)


class Taking:
    """A source that takes events, and what it has brought to the store."""

    def __init__(self, source: NatsSource, store: SqliteStore, metrics: Metrics, running: asyncio.Task[None]) -> None:
        self.source = source
        self.store = store
        self.metrics = metrics
        self.running = running

    async def ids(self) -> list[str]:
        """The ids of all events, in the order in which they were appended."""
        query = "SELECT id FROM event ORDER BY seq"
        return [id for (id,) in await self.store.database.read(lambda driver: driver.execute(query).fetchall())]

    async def count(self) -> int:
        return len(await self.ids())

    async def records(self) -> list[EventRecord]:
        found = [await self.store.log.record(EventId(id)) for id in await self.ids()]
        return [record for record in found if record is not None]

    async def has(self, count: int, within_s: float = 60.0) -> None:
        """Wait until there are so many events, and see that there are no more."""

        async def are_there() -> bool:
            return await self.count() >= count

        await eventually(are_there, within_s, self.source.problems)
        assert await self.count() == count

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def taking(
    directory: Path,
    nats: Nats,
    *,
    max_events: int = 10**6,
    settings: dict[str, Any] | None = None,
    traces: IngestTraces | None = None,
) -> AsyncIterator[Taking]:
    """A source on a store in `directory`, until it is stopped in order."""
    options = SqliteOptions(max_events=max_events, max_bytes=10**9, lease_s=120)
    store = await open_store(directory / "tocsin.db", options, server=True)
    await store.start()
    all_settings = Settings(sources=Sources(nats=nats), **(settings or {}))
    metrics = Metrics()
    source = source_of(all_settings, Ingest(all_settings, RULES), store, metrics, traces)
    assert source is not None
    running = asyncio.create_task(source.run())
    try:
        yield Taking(source, store, metrics, running)
    finally:
        source.stop()
        try:
            async with asyncio.timeout(10):
                await running
        finally:
            await store.close()
