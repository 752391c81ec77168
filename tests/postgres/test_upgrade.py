"""A cluster that is upgraded node by node: two versions use one database at the same time.

The newer version is this one with further steps: one that adds (expand), and a later one that removes (contract).
"""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.support import claim, done, ids, registration
from tests.postgres.nodes import Nodes, event_of, owners
from tests.postgres.test_several_nodes import terminate

from tocsin.domain.events import UserId
from tocsin.store.ports import StoreError, StoreUnavailable
from tocsin.store.postgres import schema
from tocsin.store.postgres.schema import Step
from tocsin.store.postgres.store import PostgresStore

PRESENT = schema.steps()
NEWEST = PRESENT[-1]
EXPAND = [
    Step(NEWEST.number + number, NEWEST.oldest, sql)
    for number, sql in enumerate(
        (
            "ALTER TABLE event ADD COLUMN trace text",
            "ALTER TABLE settlement ADD COLUMN trace text NOT NULL DEFAULT ''",
            "ALTER TABLE parked ADD COLUMN priority smallint NOT NULL DEFAULT 0",
            "ALTER TABLE kept ADD COLUMN trace text",
            "ALTER TABLE device ADD COLUMN label text NOT NULL DEFAULT ''",
            "ALTER TABLE removal ADD COLUMN label text NOT NULL DEFAULT ''",
            "ALTER TABLE node ADD COLUMN region text NOT NULL DEFAULT ''",
            "ALTER TABLE credential ADD COLUMN label text",
            "CREATE TABLE label (name text PRIMARY KEY)",
        ),
        1,
    )
]
EXPANDED = EXPAND[-1].number
CONTRACT = Step(EXPANDED + 1, EXPANDED, "ALTER TABLE device DROP COLUMN last_success_ms")


class Versions:
    """Opens nodes of this version, and of two that are newer."""

    def __init__(self, nodes: Nodes, patch: pytest.MonkeyPatch) -> None:
        self._nodes = nodes
        self._patch = patch

    async def open(self, *newer: Step, duties: bool = False) -> PostgresStore:
        with self._patch.context() as patch:
            patch.setattr(schema, "steps", lambda: [*PRESENT, *newer])
            return await self._nodes.open(duties=duties)


@pytest.fixture
def versions(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Versions:
    return Versions(nodes, monkeypatch)


async def deliver(stores: list[PostgresStore], everyone: list[UserId]) -> None:
    """Registrations and events through each of them, delivered by whichever has the log."""
    for number, store in enumerate(stores):
        token = f"token-{number}-{store.now_ms()}"
        await store.registry.add_many([registration(token, owner=owner) for owner in everyone[:10]], 1000)
        events = [event_of(store, owner) for owner in everyone]
        await store.queue.append(events)
        claimed: list[str] = []
        async with asyncio.timeout(30):
            while len(claimed) < len(events):
                for node in stores:
                    await node.beat()
                    await node.rebalance()
                    items = await claim(node, 1000, {})
                    claimed += ids(items)
                    assert all(await node.queue.settle([done(item) for item in items]))
        assert sorted(claimed) == sorted(event.id for event in events)
        found = await stores[0].registry.devices_of(everyone[:10])
        assert all(token in {device.token for device in own} for own in found.values())


async def test_a_cluster_is_upgraded_node_by_node_while_it_delivers(nodes: Nodes, versions: Versions) -> None:
    everyone = owners(60)
    old, other_old = await versions.open(), await versions.open()
    await deliver([old, other_old], everyone)

    # The first newer node adds to the tables, while both older ones use them.
    appending = asyncio.create_task(_append_all_the_time(old, everyone))
    new = await versions.open(*EXPAND)
    await asyncio.sleep(0.3)
    appending.cancel()
    assert await nodes.execute("SELECT count(*) FROM label") is not None
    for node in (old, other_old, new):
        await node.beat()
        await node.rebalance()
        await node.queue.settle([done(item) for item in await claim(node, 10_000, {})])
    await deliver([old, other_old, new], everyone)
    # An older one loses its session, or is started again, and goes on beside it.
    await terminate(nodes, old)
    await old.come_back()
    await other_old.close()
    again = await versions.open()
    await deliver([old, again, new], everyone)

    # What an older node needs is not removed while one runs.
    with pytest.raises(StoreError, match="removes from its tables what 2 running processes of an older version need"):
        await versions.open(*EXPAND, CONTRACT)
    await deliver([old, again, new], everyone)
    await old.close()
    await again.close()
    newest = await versions.open(*EXPAND, CONTRACT)
    assert await schema_of(nodes) == CONTRACT.number
    await newest.close()
    with pytest.raises(StoreError, match=f"usable from {EXPANDED} on; this one knows {NEWEST.number}"):
        await versions.open()


async def test_a_table_that_is_read_for_long_is_changed_later_and_nobody_waits_behind_the_change(
    nodes: Nodes, versions: Versions
) -> None:
    old = await versions.open()
    reader = await nodes.connection()
    reading = reader.transaction()
    await reading.start()
    await reader.fetch("SELECT 1 FROM device")
    opening = asyncio.create_task(versions.open(*EXPAND))
    await deliver([old], owners(20))
    await asyncio.sleep(1.5)
    await deliver([old], owners(20))
    assert not opening.done(), "it is still being read"
    await reading.rollback()
    await deliver([old, await opening], owners(20))


async def test_a_node_that_was_cut_off_while_its_tables_went_sends_nothing_and_says_why(
    nodes: Nodes, versions: Versions
) -> None:
    old = await versions.open()
    await terminate(nodes, old)
    await (await versions.open(*EXPAND, CONTRACT)).close()
    with pytest.raises(StoreUnavailable, match="its tables are of a newer tocsin"):
        await old.come_back()
    assert not old.queue.may_send()
    assert "its tables are of a newer tocsin" in old.failures()[0]


async def test_a_node_that_looked_before_the_tables_were_changed_and_begins_after_it_does_not_begin(
    nodes: Nodes, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = PostgresStore.start

    async def changed_meanwhile(self: PostgresStore) -> None:
        monkeypatch.setattr(PostgresStore, "start", begin)
        await (await versions.open(*EXPAND, CONTRACT)).close()
        await begin(self)

    monkeypatch.setattr(PostgresStore, "start", changed_meanwhile)
    with pytest.raises(StoreError, match="its tables are of a newer tocsin"):
        await versions.open()


async def _append_all_the_time(store: PostgresStore, everyone: list[UserId]) -> None:
    while True:
        await store.queue.append([event_of(store, owner) for owner in everyone[:5]])
        await asyncio.sleep(0)


async def schema_of(nodes: Nodes) -> int:
    number: int = (await nodes.execute("SELECT value FROM meta WHERE name = 'schema'"))[0][0]
    return number
