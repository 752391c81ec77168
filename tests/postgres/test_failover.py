"""A primary that dies or is cut off, and a synchronous standby that takes its place: nothing accepted is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from tests.contract.support import OWNER, TOKEN, done, registration
from tests.postgres.nodes import event_of, owners, until
from tests.support.postgres import options
from tests.support.postgres_server import SUPERUSER, PostgresServer, remove

from tocsin.domain.events import Event
from tocsin.store.ports import WriteFailure
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.places import LOGS
from tocsin.store.postgres.replication import replicas
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import TokenDeleted

pytestmark = pytest.mark.slow

# Kept off the disk: a process that is killed loses nothing of it all the same.
SETTINGS = {"fsync": "off", "wal_level": "replica", "hot_standby": "on"}


class Cluster:
    """A primary and its synchronous standby."""

    def __init__(self, life: AsyncExitStack) -> None:
        self._life = life
        self.primary = PostgresServer(SETTINGS).start()
        life.callback(remove, self.primary)

    async def open(self) -> None:
        self.standby = PostgresServer.copy_of(self.primary, SETTINGS)
        self._life.callback(remove, self.standby)
        self.standby.start()
        await self.ask(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        await self.ask(self.primary, "SELECT pg_reload_conf()")
        async with asyncio.timeout(60):
            while not await self.ask(self.primary, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
                await asyncio.sleep(0.05)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self.primary, self.standby))
        return f"postgresql://{SUPERUSER}@{hosts}/postgres"

    async def ask(self, server: PostgresServer, statement: str) -> list[Any]:
        connection = await asyncpg.connect(server.url(), timeout=10)
        try:
            rows: list[Any] = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    async def promote(self) -> None:
        await self.ask(self.standby, "SELECT pg_promote()")

    async def node(self) -> PostgresStore:
        store = await open_store(options(self.url, None, fresh_s=1.0), server=True)
        self._life.push_async_callback(store.close)
        await store.start()
        return store


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as life:
        cluster = Cluster(life)
        await cluster.open()
        yield cluster


async def append_until(store: PostgresStore, accepted: list[Event], stop: asyncio.Event) -> None:
    """Append, and repeat what got no answer, as a producer does."""
    everyone = owners(50)
    number = 0
    while not stop.is_set():
        batch = [event_of(store, everyone[(number + n) % 50]) for n in range(5)]
        number += 5
        while True:
            try:
                await store.queue.append(batch)
                break
            except WriteFailure:
                await asyncio.sleep(0.1)
        accepted += batch
        await asyncio.sleep(0.002)


async def deliver(store: PostgresStore, delivered: list[str]) -> None:
    while True:
        try:
            items = await store.queue.claim(100)
            if items:
                while True:
                    try:
                        settled = await store.queue.settle([done(item) for item in items])
                        break
                    except WriteFailure:
                        await asyncio.sleep(0.1)
                delivered += [item.event.id for item, is_settled in zip(items, settled, strict=True) if is_settled]
            else:
                await store.queue.wait(0.2)
        except WriteFailure:
            await asyncio.sleep(0.1)


async def test_a_primary_that_is_killed_under_load_loses_nothing_that_was_accepted(cluster: Cluster) -> None:
    node = await cluster.node()
    accepted: list[Event] = []
    delivered: list[str] = []
    stop = asyncio.Event()
    delivering = asyncio.ensure_future(deliver(node, delivered))
    appending = asyncio.ensure_future(append_until(node, accepted, stop))
    await until(lambda: len(delivered) > 200, 60)
    cluster.primary.stop(signal.SIGKILL)
    before = len(accepted)
    await cluster.promote()
    await until(lambda: len(accepted) > before + 200, 90)
    stop.set()
    await appending
    await until(lambda: len(set(delivered)) >= len(accepted), 60)
    delivering.cancel()
    assert len(delivered) == len(set(delivered)), "nobody else had its logs: nothing is delivered twice"
    assert set(delivered) == {event.id for event in accepted}
    assert len(node.ownership.held) == LOGS
    assert await node.queue.append([accepted[0]]) is None
    await until(lambda: node.queue.may_send(), 30)


async def test_a_node_leaves_a_primary_that_is_cut_off_though_it_still_takes_connections(cluster: Cluster) -> None:
    """It answers reads, and says that it takes writes; but no commit is acknowledged any more."""
    node = await cluster.node()
    await node.registry.add(registration("a"), 100)
    heard: list[object] = []
    node.signals.subscribe(heard.append)
    accepted: list[Event] = []
    delivered: list[str] = []
    stop = asyncio.Event()
    delivering = asyncio.ensure_future(deliver(node, delivered))
    appending = asyncio.ensure_future(append_until(node, accepted, stop))
    await until(lambda: len(delivered) > 100, 60)
    # The standby is promoted while the primary runs: it follows the primary no more.
    await cluster.promote()
    assert await cluster.ask(cluster.primary, "SELECT 1")
    await until(
        lambda: node._session_target.hosts.in_order()[0][1] == cluster.standby.port and node.queue.may_send(), 60
    )
    before = len(accepted)
    await until(lambda: len(accepted) > before + 100, 90)
    stop.set()
    await appending
    await until(lambda: {event.id for event in accepted} <= set(delivered), 60)
    delivering.cancel()
    assert len(delivered) == len(set(delivered))
    found = await cluster.ask(cluster.standby, "SELECT id::text FROM event WHERE id IS NOT NULL")
    assert {event.id for event in accepted} <= {row[0] for row in found}
    other = await open_store(options(cluster.standby.url(), None))
    await other.registry.delete(OWNER, "apns", TOKEN)
    await other.close()
    await until(lambda: TokenDeleted(OWNER, "apns", TOKEN) in heard, 20)


async def test_without_its_standby_nothing_is_accepted_and_nothing_is_sent(cluster: Cluster) -> None:
    node = await cluster.node()
    await node.queue.append([event_of(node, OWNER)])
    cluster.standby.stop(signal.SIGKILL)
    appending = asyncio.ensure_future(node.queue.append([event_of(node, OWNER)]))
    await until(lambda: not node.queue.may_send(), 30)
    assert not appending.done() or isinstance(appending.exception(), WriteFailure)
    cluster.standby.start()
    await until(lambda: node.queue.may_send(), 60)
    await asyncio.gather(appending, return_exceptions=True)
    await node.queue.append([event_of(node, OWNER)])


async def test_how_far_a_standby_is_behind_is_known_to_those_who_may_see_it(cluster: Cluster) -> None:
    node = await cluster.node()
    await node.stop_duties()

    async def behind(bytes_: int, seconds: float) -> bool:
        (found,) = await node.replicas()
        assert found.name == "walreceiver"
        return (found.lag_bytes > 0) == (bytes_ > 0) and found.lag_s >= seconds

    async def eventually(bytes_: int, seconds: float) -> None:
        async with asyncio.timeout(30):
            while not await behind(bytes_, seconds):
                await asyncio.sleep(0.05)

    await eventually(0, 0)
    await cluster.ask(cluster.primary, "ALTER SYSTEM SET synchronous_standby_names = ''")
    await cluster.ask(cluster.primary, "SELECT pg_reload_conf()")
    cluster.standby.send(signal.SIGSTOP)
    await cluster.ask(cluster.primary, "CREATE ROLE plain")
    await eventually(1, 1.0)
    cluster.standby.send(signal.SIGCONT)
    await eventually(0, 0)
    connection = await asyncpg.connect(cluster.primary.url(), timeout=10)
    try:
        await connection.execute("SET ROLE plain")
        assert await replicas(connection) == []
        await connection.execute("RESET ROLE; GRANT pg_read_all_stats TO plain; SET ROLE plain")
        assert len(await replicas(connection)) == 1
        await connection.execute(
            "RESET ROLE; REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn FROM PUBLIC; SET ROLE plain"
        )
        assert await replicas(connection) == []
    finally:
        await connection.close()
