"""Several nodes that share a store on PostgreSQL take from one durable consumer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.sources.bus import Bus, encoded, eventually, fax, nats_settings
from tests.support.nats import NatsServer
from tests.support.postgres import drop_database, fetch, new_database, options
from tests.support.postgres_server import shared_server

from tocsin.domain.events import Event
from tocsin.ingest.batch import Ingest
from tocsin.providers.rules import RULES
from tocsin.settings import Nats, Settings, Sources
from tocsin.sources.nats import source_of
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.store import PostgresStore
from tocsin.telemetry import Metrics

pytestmark = pytest.mark.slow


@pytest.fixture
async def url() -> AsyncIterator[str]:
    name = await new_database()
    yield shared_server().url(name)
    await drop_database(name)


class Node:
    def __init__(self, store: PostgresStore, nats: Nats) -> None:
        self.store = store
        self.metrics = Metrics()
        settings = Settings(sources=Sources(nats=nats))
        source = source_of(settings, Ingest(settings, RULES), store, self.metrics)
        assert source is not None
        self.source = source
        self.running = asyncio.create_task(source.run())

    @property
    def taken(self) -> float:
        labels = {"consumer": "tocsin"}
        return self.metrics.registry.get_sample_value("tocsin_source_events_total", labels) or 0.0

    async def end(self) -> None:
        """At once: nothing is given back, and nobody is told."""
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running


@contextlib.asynccontextmanager
async def node_on(url: str, nats: Nats) -> AsyncIterator[Node]:
    store = await open_store(options(url, None))
    node = Node(store, nats)
    try:
        yield node
    finally:
        node.source.stop()
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.timeout(10):
                await node.running
        await store.close()


async def accepted(url: str) -> int:
    """How many events the store has."""
    ((count,),) = await fetch(url, "SELECT count(*) FROM event WHERE id IS NOT NULL")
    return int(count)


async def test_of_two_nodes_each_takes_a_part_and_no_event_is_taken_twice(
    bus: Bus, server: NatsServer, url: str
) -> None:
    nats = nats_settings(server, batch=20)
    async with node_on(url, nats) as one, node_on(url, nats) as other:
        for first in range(0, 600, 100):
            await asyncio.gather(*(bus.publish(encoded(fax(number))) for number in range(first, first + 100)))
        await eventually(bus.is_done)
        assert await accepted(url) == 600
        assert one.taken + other.taken == 600
        assert one.taken
        assert other.taken


async def test_what_a_killed_node_had_in_hand_comes_to_the_other(bus: Bus, server: NatsServer, url: str) -> None:
    nats = nats_settings(server, batch=20)
    async with node_on(url, nats) as one:
        in_hand = asyncio.Event()

        async def stuck(events: Sequence[Event]) -> None:
            in_hand.set()
            await asyncio.Event().wait()

        one.store.queue.append = stuck  # type: ignore[method-assign]
        for number in range(30):
            await bus.publish(encoded(fax(number)))
        await asyncio.wait_for(in_hand.wait(), 30)
        await one.end()
        async with node_on(url, nats) as other:
            await eventually(bus.is_done)
            assert other.taken == 30
            assert await accepted(url) == 30


async def test_a_consumer_that_was_deleted_while_no_node_ran_begins_where_all_of_them_were(
    bus: Bus, server: NatsServer, url: str
) -> None:
    nats = nats_settings(server)
    async with node_on(url, nats):
        for number in range(10):
            await bus.publish(encoded(fax(number)))
        await eventually(bus.is_done)
    assert await bus.js.delete_consumer("EVENTS", "tocsin")
    await bus.publish(encoded(fax(10)))
    async with node_on(url, nats) as later:
        await eventually(bus.is_done)
        assert later.taken == 1
        assert (await bus.js.consumer_info("EVENTS", "tocsin")).config.opt_start_seq == 11
