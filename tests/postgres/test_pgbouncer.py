"""PgBouncer in transaction mode stands between the store and the server: `store.session_url` goes past it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from tests.contract.support import claim, done, ids, registration
from tests.postgres.nodes import Nodes, event_of, owners, until
from tests.support.pgbouncer import PgBouncer, needs_pgbouncer
from tests.support.postgres import drop_database, new_database, options
from tests.support.postgres_server import shared_server

from tocsin.store.ports import StoreError, WriteFailure
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import Item

pytestmark = needs_pgbouncer


@pytest.fixture
def pgbouncer() -> Iterator[PgBouncer]:
    pgbouncer = PgBouncer(shared_server()).start()
    yield pgbouncer
    pgbouncer.remove()


@pytest.fixture
async def pooled(database: str, pgbouncer: PgBouncer) -> AsyncIterator[Nodes]:
    """Nodes whose connections lead through it."""
    async with AsyncExitStack() as life:
        yield Nodes(database, life, through=pgbouncer.url(database))


async def deliver_all(stores: list[PostgresStore], count: int) -> list[str]:
    delivered: list[str] = []
    async with asyncio.timeout(60):
        while len(delivered) < count:
            for store in stores:
                items = await claim(store, 1000, {})
                delivered += ids(items)
                assert all(await store.queue.settle([done(item) for item in items]))
            await asyncio.sleep(0.01)
    return delivered


async def test_two_nodes_behind_pgbouncer_go_on_when_it_has_been_killed_and_started_again(
    pooled: Nodes, pgbouncer: PgBouncer
) -> None:
    one, other = await pooled.open(duties=True), await pooled.open(duties=True)
    everyone = owners(200)
    # More at once than it has connections to the server, again and again: each is another one's the next time.
    for round in range(5):
        events = [event_of(store, owner) for store in (one, other) for owner in everyone]
        added = [store.queue.append(events[at : at + 20]) for at in range(0, 400, 20) for store in (one, other)]
        registered = [
            store.registry.add_many([registration(f"token-{round}-{owner}", owner=owner)], 1000)
            for store, owner in zip([one, other] * 10, everyone, strict=False)
        ]
        await asyncio.gather(*added, *registered)
        assert sorted(await deliver_all([one, other], 400)) == sorted(event.id for event in events)

    await one.queue.append([event_of(one, everyone[0])])
    in_hand: dict[PostgresStore, list[Item]] = {}
    async with asyncio.timeout(30):
        while not any(in_hand.values()):
            in_hand = {store: await claim(store, 10, {}) for store in (one, other)}
    pgbouncer.kill()
    with pytest.raises(WriteFailure):
        await one.queue.append([event_of(one, everyone[0])])
    assert one.failures()
    # The session goes past it: what is on the wire is settled, also after heartbeats with which nothing could be read.
    await until(lambda: not (one.queue.may_send() or other.queue.may_send()))
    for store, items in in_hand.items():
        assert all(await store.queue.settle([done(item) for item in items]))
    pgbouncer.start()
    events = [event_of(one, owner) for owner in everyone]
    await one.queue.append(events)
    assert sorted(await deliver_all([one, other], 200)) == sorted(event.id for event in events)
    await until(lambda: one.failures() == other.failures() == [])


async def test_what_a_node_holds_whose_own_pgbouncer_is_down_is_delivered_by_another(
    pooled: Nodes, pgbouncer: PgBouncer
) -> None:
    down, other = await pooled.open(duties=True), await pooled.open(through=pooled.url, duties=True)
    await until(lambda: len(down.ownership.held) == len(other.ownership.held))
    pgbouncer.kill()
    events = [event_of(other, owner) for owner in owners(200)]
    await other.queue.append(events)
    assert sorted(await deliver_all([other], 200)) == sorted(event.id for event in events)
    pgbouncer.start()
    await until(lambda: down.queue.may_send() and len(down.ownership.held) == len(other.ownership.held))


async def test_without_a_way_past_pgbouncer_a_store_is_refused_and_the_setting_is_named(
    database: str, pgbouncer: PgBouncer
) -> None:
    with pytest.raises(StoreError, match=r"PgBouncer stands between: .* with store.session_url"):
        await open_store(options(pgbouncer.url(database), None))


async def test_a_way_past_pgbouncer_that_leads_to_another_database_is_refused(
    pooled: Nodes, pgbouncer: PgBouncer
) -> None:
    another = await new_database()
    try:
        with pytest.raises(StoreError, match=r"store\.session_url leads to another database than store\.url"):
            await pooled.open(session_url=shared_server().url(another))
    finally:
        await drop_database(another)


async def test_a_node_whose_pgbouncer_leads_elsewhere_sends_nothing_for_it_does_not_hear_of_deleted_tokens(
    pooled: Nodes, database: str, pgbouncer: PgBouncer
) -> None:
    """As to an old primary, after a failover."""
    node = await pooled.open(duties=True)
    await until(node.queue.may_send)
    another = await new_database()
    try:
        pgbouncer.kill()
        pgbouncer.start(**{database: another})
        await until(lambda: any("leads to another server" in one for one in node.failures()))
        assert not node.queue.may_send()
        assert node.session is not None
        assert node.session.is_connected
        pgbouncer.kill()
        pgbouncer.start()
        await until(node.queue.may_send)
        assert node.failures() == []
    finally:
        await drop_database(another)


async def test_a_write_that_leads_through_it_is_limited_as_any_other_and_nothing_of_that_stays(pooled: Nodes) -> None:
    store = await pooled.open()
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    asked = ", ".join(f"current_setting('{name}')" for name in names)
    assert tuple(await store.database.write(lambda one: one.fetchrow(f"SELECT {asked}"))) == ("20s", "10s")
    assert tuple(await store.database.read(lambda one: one.fetchrow(f"SELECT {asked}"))) == ("0", "0")
