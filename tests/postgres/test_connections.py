"""A bounded number of connections: jobs share them, and none waits for another for ever."""

from __future__ import annotations

import asyncio

from tests.contract.support import OWNER, claim, done
from tests.postgres.nodes import Nodes, event_of

from tocsin.store.records import Result


async def test_more_jobs_than_connections_end_though_each_needs_a_key_that_nobody_has_read(nodes: Nodes) -> None:
    node = await nodes.open()
    events = [event_of(node, OWNER) for _ in range(40)]
    await node.queue.append(events)
    await node.queue.settle([done(item, Result.REFUSED) for item in await claim(node, 100, {})])
    command = await nodes.open(server=False)
    async with asyncio.timeout(60):
        records = await asyncio.gather(*(command.log.record(event.id) for event in events))
        pages = await asyncio.gather(*(command.log.dead_letters(10) for _ in range(20)))
        await asyncio.gather(*(command.queue.append([event]) for event in events))
    assert [record and record.event.body for record in records] == [event.body for event in events]
    assert all(len(page.letters) == 10 for page in pages)
