"""Pruning disturbs nobody: no log is read beyond a transaction that has written something and lasts."""

from __future__ import annotations

import asyncio

from tests.contract.support import keep, new_id
from tests.postgres.nodes import Nodes

_DAY_S = 86_400.0


async def test_each_kind_of_old_rows_is_forgotten_in_a_transaction_of_its_own(nodes: Nodes) -> None:
    node = await nodes.open()
    await nodes.execute(
        "INSERT INTO removal(owner, provider, token, account, device, removed_ms, reason, quarantined)"
        " VALUES ($1, 'apns', 'a', 'main', 'apns:a', 0, 'unregistered', false)",
        new_id(),
    )
    holder = await nodes.connection()
    async with holder.transaction():
        # Forgetting old sessions waits for this, for as long as it lasts.
        await holder.execute("LOCK TABLE session IN SHARE MODE")
        pruning = asyncio.create_task(node.prune(keep(7 * _DAY_S, 7 * _DAY_S)))
        async with asyncio.timeout(20):
            while await nodes.execute("SELECT FROM removal"):
                await asyncio.sleep(0.02)
        waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'session'::regclass"
        async with asyncio.timeout(20):
            while not await nodes.execute(waits):
                await asyncio.sleep(0.02)
        writes = "SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()"
        assert await nodes.execute(writes) == []
    assert not await pruning
