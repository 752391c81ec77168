"""Commits whose answer is lost, or that the standby has not taken: what is said is never more than what is so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from tests.contract.support import OWNER, claim, done, ids, parked
from tests.postgres.nodes import Nodes, event_of

from tocsin.store.ports import CommitUnknown, EventIdConflict, StoreUnavailable
from tocsin.store.postgres.connections import Watched
from tocsin.store.postgres.store import PostgresStore


async def wait_for_standby(nodes: Nodes, node: PostgresStore) -> None:
    """From now on commits of this node wait for a standby that there is not."""
    await nodes.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await nodes.execute("SELECT pg_reload_conf()")
    await nodes.execute(f"ALTER DATABASE \"{nodes.url.rpartition('/')[2]}\" SET synchronous_commit = 'on'")
    node.database.renew()


async def wait_no_more(nodes: Nodes) -> None:
    await nodes.execute("ALTER SYSTEM RESET synchronous_standby_names")
    await nodes.execute("SELECT pg_reload_conf()")


async def who_waits(nodes: Nodes) -> int:
    """The backend of a commit that waits for the standby."""
    waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()"
    async with asyncio.timeout(30):
        while not (waiting := await nodes.execute(waits)):
            await asyncio.sleep(0.02)
    found: int = waiting[0][0]
    return found


async def test_a_repeat_that_finds_its_rows_waits_for_the_standby_like_the_first(nodes: Nodes) -> None:
    """A commit that has written nothing waits for nobody: what it says is on record could be lost at a failover."""
    node = await nodes.open()
    event = event_of(node, OWNER)
    await node.queue.append([event])
    await wait_for_standby(nodes, node)
    try:
        repeating = asyncio.ensure_future(node.queue.append([event]))
        await who_waits(nodes)
        assert not repeating.done()
    finally:
        await wait_no_more(nodes)
    await asyncio.wait_for(repeating, 30)
    assert (await nodes.execute("SELECT count(*) FROM event WHERE id IS NOT NULL"))[0][0] == 1


async def test_a_wait_for_the_standby_that_is_cancelled_is_not_taken_for_success(nodes: Nodes) -> None:
    """PostgreSQL answers such a commit with success, and a warning."""
    node = await nodes.open()
    await node.queue.append([event_of(node, OWNER)])
    await wait_for_standby(nodes, node)
    try:
        event = event_of(node, OWNER)
        appending = asyncio.ensure_future(node.queue.append([event]))
        await nodes.execute("SELECT pg_cancel_backend($1)", await who_waits(nodes))
        with pytest.raises(CommitUnknown, match="standby"):
            await appending
    finally:
        await wait_no_more(nodes)
    await node.queue.append([event])
    assert ids(await claim(node, 10, {}))[-1] == event.id


class _LosesTheAnswer:
    """A connection that is cut when the server has committed, before its answer is read."""

    def __init__(self, watched: Watched, methods: tuple[str, ...]) -> None:
        self._connection = watched.connection
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in self._methods:
            return found

        async def lost(*arguments: Any, **options: Any) -> Any:
            await found(*arguments, **options)
            self._connection.terminate()
            raise ConnectionResetError("cut")

        return lost


async def test_an_append_whose_answer_is_lost_may_be_repeated(nodes: Nodes) -> None:
    node = await nodes.open()
    await node.queue.append([event_of(node, OWNER)])
    (watched,) = node.database._free
    watched.connection = _LosesTheAnswer(watched, ("fetchval",))
    event = event_of(node, OWNER)
    with pytest.raises(CommitUnknown):
        await node.queue.append([event])
    await node.queue.append([event])
    assert (await node.queue.backlog()).events == 2
    assert ids(await claim(node, 10, {}))[1:] == [event.id]
    with pytest.raises(EventIdConflict):
        await node.queue.append([replace(event, body=b"{}")])


@pytest.mark.parametrize("parks", [False, True])
async def test_a_settlement_whose_answer_is_lost_is_repeated_and_on_record_once(nodes: Nodes, parks: bool) -> None:
    node = await nodes.open()
    await node.queue.append([event_of(node, OWNER), event_of(node, OWNER)])
    one, other = await claim(node, 10, {})
    settlements = [parked(one, node.now_ms() + 60_000) if parks else done(one), done(other)]
    assert node.session is not None
    watched = node.session._watched
    assert watched is not None
    real = watched.connection

    if parks:
        transaction = real.transaction

        class Lost:
            def __init__(self) -> None:
                self._own = transaction()

            async def start(self) -> None:
                await self._own.start()

            async def rollback(self) -> None:
                await self._own.rollback()

            async def commit(self) -> None:
                await self._own.commit()
                real.terminate()
                raise ConnectionResetError("cut")

        watched.connection = _Replaced(real, {"transaction": Lost})
    else:
        watched.connection = _LosesTheAnswer(watched, ("execute",))
    with pytest.raises(CommitUnknown):
        await node.queue.settle(settlements)
    with pytest.raises(StoreUnavailable):
        await node.queue.settle(settlements)
    await node.come_back()
    assert await node.queue.settle(settlements) == [True, True]
    record = await node.log.record(one.event.id)
    assert record is not None
    assert (len(record.attempts), len(record.waiting)) == (1, 1 if parks else 0)
    assert (await nodes.execute("SELECT count(*) FROM settlement"))[0][0] == 2
    assert (await node.queue.backlog()).events == (1 if parks else 0)


class _Replaced:
    def __init__(self, connection: Any, replaced: dict[str, Any]) -> None:
        self._connection = connection
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self._connection, name)


async def test_ids_are_inserted_in_their_order_so_that_nobody_deadlocks(nodes: Nodes) -> None:
    """Whoever waits for another at one id holds no id that comes after it."""
    node = await nodes.open()
    low, high = event_of(node, OWNER), event_of(node, OWNER)
    assert low.id < high.id
    other = await nodes.connection()
    transaction = other.transaction()
    await transaction.start()
    insert = "INSERT INTO event_id(id, digest, day, stream, xid) VALUES ($1, '', 0, 0, 0)"
    await other.execute(insert, low.id)
    appending = asyncio.ensure_future(node.queue.append([high, low]))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(30):
        while not await nodes.execute(waiting):
            await asyncio.sleep(0.02)
    await asyncio.wait_for(other.execute(insert, high.id), 30)
    await transaction.rollback()
    await asyncio.wait_for(appending, 30)
    assert ids(await claim(node, 10, {})) == [high.id, low.id]


async def test_the_same_ids_appended_by_several_processes_at_once_are_accepted_once(nodes: Nodes) -> None:
    node = await nodes.open()
    writers = [await nodes.open(server=False) for _ in range(3)]
    events = [event_of(node, OWNER) for _ in range(2000)]
    batches = [events, events[::-1], [*events[1000:], *events[:1000]]]
    async with asyncio.timeout(60):
        await asyncio.gather(*(one.queue.append(batch) for one, batch in zip(writers, batches, strict=True)))
    await node.notice_changes()
    assert (await node.queue.backlog()).events == 2000
