"""Several nodes on one database: who has which logs, and what becomes of them when one is gone."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.support import OWNER, TOKEN, claim, done, ids, parked, registration
from tests.postgres.nodes import FRESH_S, Nodes, event_of, owners, until
from tests.support.postgres import connections_are_gone

from tocsin.store.ports import StoreUnavailable, WriteFailure
from tocsin.store.postgres.places import LOGS, log_of
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import Item, TokenDeleted


def of(store: PostgresStore, everyone: list) -> list:  # type: ignore[type-arg]
    return [owner for owner in everyone if log_of(owner) in store.ownership.held]


async def terminate(nodes: Nodes, store: PostgresStore) -> None:
    """An administrator ends the session of a node."""
    application = store._session_target.application
    rows = await nodes.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", application
    )
    assert len(rows) == 1
    assert store.session is not None
    await until(lambda: store.session is not None and not store.session.is_connected)


async def test_nodes_share_the_logs_and_every_event_is_claimed_by_one_of_them(nodes: Nodes) -> None:
    one = await nodes.open()
    assert len(one.ownership.held) == LOGS
    everyone = owners(200)
    events = [event_of(one, owner) for owner in everyone]
    other = await nodes.open()
    await nodes.share(one, other)
    assert one.ownership.held.keys() | other.ownership.held.keys() == set(range(LOGS))
    assert one.ownership.held.keys().isdisjoint(other.ownership.held.keys())
    await one.queue.append(events)
    claimed: list[str] = []
    for node in (one, other):
        node.queue.look_again()
        own = await claim(node, 1000, {})
        assert {item.event.owner for item in own} == set(of(node, everyone))
        claimed += ids(own)
    assert sorted(claimed) == sorted(event.id for event in events)


async def test_a_log_changes_hands_only_when_nothing_of_it_is_out(nodes: Nodes) -> None:
    one = await nodes.open()
    everyone = owners(100)
    await one.queue.append([event_of(one, owner) for owner in everyone])
    items = await claim(one, 60, {})
    other = await nodes.open()
    out = {log_of(item.event.owner) for item in items}
    for _ in range(3):
        await one.rebalance()
        await other.rebalance()
    assert out <= one.ownership.held.keys()
    assert await one.queue.settle([done(item) for item in items]) == [True] * 60
    await nodes.share(one, other)
    left = []
    for node in (one, other):
        node.queue.look_again()
        left += ids(await claim(node, 1000, {}))
    assert len(left) == len(set(left)) == 40
    assert not set(left) & set(ids(items))


async def test_what_a_dead_node_had_is_taken_over_and_nothing_of_it_is_lost_or_repeated(nodes: Nodes) -> None:
    one = await nodes.open()
    other = await nodes.open()
    await nodes.share(one, other)
    everyone = owners(100)
    await other.queue.append([event_of(one, owner) for owner in everyone])
    for node in (one, other):
        node.queue.look_again()
    mine, theirs = await claim(one, 1000, {}), await claim(other, 1000, {})
    settled = theirs[::2]
    await other.queue.settle([done(item) for item in settled])
    await other.queue.settle([parked(item, other.now_ms()) for item in theirs[1::4]])
    await other.abandon()
    async with asyncio.timeout(60):
        while len(one.ownership.held) < LOGS:
            await one.beat()
            await one.rebalance()
    again = await claim(one, 1000, {"apns:production:39JSDKGJ38.de.cospace.app": 1000})
    assert sorted(ids(again)) == sorted(set(ids(theirs)) - set(ids(settled)))
    assert await one.queue.settle([done(item) for item in [*mine, *again]]) == [True] * (len(mine) + len(again))
    assert (await one.queue.backlog()).events == 0


async def test_a_node_whose_session_was_ended_settles_nothing_that_another_has_taken_over(nodes: Nodes) -> None:
    one = await nodes.open()
    lost: list[Item] = []
    one.queue.when_lost(lost.extend)
    await one.queue.append([event_of(one, owner) for owner in owners(50)])
    items = await claim(one, 100, {})
    await terminate(nodes, one)
    other = await nodes.open()
    assert len(other.ownership.held) == LOGS
    with pytest.raises(WriteFailure):
        await one.queue.settle([done(item) for item in items])
    with pytest.raises(StoreUnavailable):
        await claim(one, 10, {})
    await one.come_back()
    assert {item.event.id for item in lost} == set(ids(items))
    assert await one.queue.settle([done(item) for item in items]) == [False] * 50
    again = await claim(other, 100, {})
    assert sorted(ids(again)) == sorted(ids(items))
    assert await other.queue.settle([done(item) for item in again]) == [True] * 50
    assert await claim(one, 100, {}) == []


async def test_a_node_that_comes_back_before_anybody_has_taken_its_logs_goes_on(nodes: Nodes) -> None:
    """What it holds in memory stays valid: the settlement that failed succeeds, once."""
    one = await nodes.open()
    lost: list[Item] = []
    one.queue.when_lost(lost.extend)
    await one.queue.append([event_of(one, owner) for owner in owners(50)])
    items = await claim(one, 100, {})
    await terminate(nodes, one)
    with pytest.raises(WriteFailure):
        await one.queue.settle([done(item) for item in items])
    await one.come_back()
    assert (lost, len(one.ownership.held)) == ([], LOGS)
    assert await one.queue.settle([done(item) for item in items]) == [True] * 50
    assert await claim(one, 100, {}) == []
    assert (await one.queue.backlog()).events == 0


async def test_a_node_without_a_fresh_heartbeat_may_not_send(nodes: Nodes) -> None:
    one = await nodes.open()
    await one.beat()
    assert one.queue.may_send()
    await asyncio.sleep(1.2 * FRESH_S)
    assert not one.queue.may_send()
    await one.beat()
    assert one.queue.may_send()
    await terminate(nodes, one)
    with pytest.raises(WriteFailure):
        await one.beat()
    assert not one.queue.may_send()
    await one.come_back()
    assert not one.queue.may_send(), "until a heartbeat has been acknowledged"
    await one.beat()
    assert one.queue.may_send()


async def test_a_heartbeat_counts_only_once_the_signals_before_it_are_applied(nodes: Nodes) -> None:
    one, other = await nodes.open(), await nodes.open(server=False)
    await one.registry.add(registration("a"), 100)
    heard: list[object] = []
    one.signals.subscribe(heard.append)
    await other.registry.delete(OWNER, "apns", TOKEN)
    await asyncio.sleep(1.2 * FRESH_S)
    assert not one.queue.may_send()
    await one.beat()
    assert heard == [TokenDeleted(OWNER, "apns", TOKEN)]
    assert one.queue.may_send()


async def test_who_takes_a_log_that_was_not_released_waits_until_its_holder_may_not_send(nodes: Nodes) -> None:
    one = await nodes.open(fresh_s=1.0)
    loop = asyncio.get_running_loop()
    await one.beat()
    last = loop.time()
    await one.abandon()
    await connections_are_gone(nodes.url)
    other = await nodes.open(fresh_s=1.0)
    assert len(other.ownership.held) == LOGS
    assert loop.time() - last > 1.4, "its last heartbeat would still count"


async def test_who_takes_a_log_that_was_released_does_not_wait(nodes: Nodes) -> None:
    one = await nodes.open(fresh_s=600.0)
    await one.close()
    async with asyncio.timeout(60):
        other = await nodes.open(fresh_s=600.0)
    assert len(other.ownership.held) == LOGS


async def test_a_stalled_node_is_ended_by_one_whose_own_heartbeats_are_fresh(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, other = await nodes.open(), await nodes.open()
    await nodes.execute(
        "UPDATE node SET beat_at = clock_timestamp() - interval '5 s' WHERE number = $1", stalled.ownership.node
    )
    await other.ownership.end_stalled_nodes()
    assert stalled.session is not None
    assert stalled.session.is_connected, "five seconds are not long enough"
    await nodes.execute(
        "UPDATE node SET beat_at = clock_timestamp() - interval '7 s' WHERE number = $1", stalled.ownership.node
    )
    await other.ownership.end_stalled_nodes()
    await until(lambda: stalled.session is not None and not stalled.session.is_connected)
    async with asyncio.timeout(30):
        while len(other.ownership.held) < LOGS:
            await other.rebalance()


async def test_nodes_wake_each_other_when_something_is_appended(nodes: Nodes) -> None:
    one, other = await nodes.open(), await nodes.open(server=False)
    assert await claim(one, 10, {}) == []
    waiting = asyncio.ensure_future(one.queue.wait(60))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    event = event_of(one, OWNER)
    await other.queue.append([event])
    await asyncio.wait_for(waiting, 20)
    assert ids(await claim(one, 10, {})) == [event.id]


async def test_nodes_do_all_of_this_by_themselves(nodes: Nodes) -> None:
    one, other = await nodes.open(duties=True, fresh_s=1.0), await nodes.open(duties=True, fresh_s=1.0)
    await until(lambda: len(one.ownership.held) == len(other.ownership.held) == LOGS // 2, 60)
    await other.registry.add(registration("a"), 100)
    heard: list[object] = []
    one.signals.subscribe(heard.append)
    await other.registry.delete(OWNER, "apns", TOKEN)
    await until(lambda: TokenDeleted(OWNER, "apns", TOKEN) in heard, 20)
    await terminate(nodes, one)
    await until(lambda: one.session is not None and one.session.is_connected and one.queue.may_send(), 60)
    assert len(await one.nodes()) == 0
    await other.abandon()
    await until(lambda: len(one.ownership.held) == LOGS, 60)
