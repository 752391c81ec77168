"""Several nodes that share a store on PostgreSQL take from one durable consumer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.cluster.proxy import Proxy, Way
from tests.sources.bus import STREAM, URGENT, Bus, encoded, eventually, fax, nats_settings
from tests.support.nats import NatsServer
from tests.support.postgres import drop_database, fetch, new_database, options
from tests.support.postgres_server import SUPERUSER, shared_server
from tests.torture.processes import free_ports

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
async def proxy_to_the_database() -> AsyncIterator[Proxy]:
    proxy = Proxy({free_ports(1): shared_server().port})
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()


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


async def test_what_a_node_without_its_database_has_in_hand_goes_to_the_other_at_once_and_it_takes_no_more_until_it_can(
    bus: Bus, server: NatsServer, url: str
) -> None:
    nats = nats_settings(server, batch=20, ack_wait_s=300)

    async def asking() -> list[int]:
        """How many nodes ask for messages of each consumer."""
        infos = [await bus.js.consumer_info(STREAM, name) for name in ("tocsin-urgent", "tocsin")]
        return [info.num_waiting or 0 for info in infos]

    async def are_asking(count: int) -> bool:
        return await asking() == [count, count]

    async with proxy_to_the_database() as proxy:
        through = f"postgresql://{SUPERUSER}@127.0.0.1:{proxy.ports[0]}/{url.rpartition('/')[2]}"
        async with node_on(through, nats) as cut_off:
            await bus.publish(encoded(fax(0)))
            await eventually(bus.is_done)
            proxy.set(Way.CUT)
            await bus.publish(encoded(fax(1)))
            await eventually(lambda: any("the store cannot be used" in one for one in cut_off.source.problems()))
            await eventually(lambda: are_asking(0))
            await bus.publish(encoded(fax(2)), subject=URGENT)
            async with node_on(url, nats) as other:
                for number in range(3, 40):
                    await bus.publish(encoded(fax(number)))
                # Far less than `ack_wait_s`, after which they come back in any case.
                await eventually(bus.is_done)
                await eventually(lambda: bus.is_done("tocsin-urgent"))
                assert await accepted(url) == 40
                assert (cut_off.taken, other.taken) == (1, 38)
                assert await asking() == [1, 1]
            proxy.set(Way.OPEN)
            await eventually(lambda: are_asking(1))
            assert cut_off.source.problems() == []
            await bus.publish(encoded(fax(40)))
            await eventually(bus.is_done)
            assert cut_off.taken == 2
            # It also stops while it waits for its store.
            proxy.set(Way.CUT)
            await bus.publish(encoded(fax(41)))
            await eventually(lambda: are_asking(0))
        assert await bus.unacknowledged() == 1


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
