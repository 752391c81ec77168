"""Several nodes on one database: who has which logs, and what becomes of them when one is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contract.support import EVERYTHING, OWNER, TOKEN, claim, done, ids, parked, registration
from tests.postgres.nodes import FRESH_S, Nodes, event_of, owners, until
from tests.support.postgres import connections_are_gone

from tocsin.domain.devices import DeviceToken
from tocsin.store.ports import BacklogFull, StoreUnavailable, WriteFailure
from tocsin.store.postgres.fresh import Stream
from tocsin.store.postgres.heartbeats import Heartbeats
from tocsin.store.postgres.places import LOGS, log_of
from tocsin.store.postgres.store import PostgresStore
from tocsin.store.records import Item, JobState, Result, Signal, TokenDeleted, TokenRegistered


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


class Time:
    """The clock by which a node counts how long the others have sent no heartbeat."""

    def __init__(self, node: PostgresStore) -> None:
        self._node = node
        self._now_s = 0.0
        node.ownership._heartbeats = Heartbeats(lambda: self._now_s)

    async def passes(self, seconds: int) -> None:
        for _ in range(seconds + 1):
            await self._node.ownership.end_stalled_nodes()
            self._now_s += 1
        self._now_s -= 1


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


async def test_a_job_that_another_node_has_taken_over_is_ended_by_that_node_alone(nodes: Nodes) -> None:
    one = await nodes.open()
    job = await one.jobs.create("replay", b"{}")
    assert await one.jobs.take(["replay"]) is not None
    await terminate(nodes, one)
    other = await nodes.open()
    assert await other.jobs.take(["replay"]) is not None
    assert not await one.jobs.progress(job.id, "", done=1)
    assert (await one.jobs.finish(job.id, "an error of the node that has lost it")).state is JobState.RUNNING
    assert await other.jobs.progress(job.id, "", done=1)
    assert (await other.jobs.finish(job.id)).state is JobState.DONE


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


async def test_what_was_counted_on_a_server_that_is_no_primary_any_more_is_counted_again(nodes: Nodes) -> None:
    """It is counted by reading, and an old primary answers until its connections are closed."""
    one = await nodes.open()
    await one.queue.append([event_of(one, owner) for owner in owners(50)])
    items = await claim(one, 100, {})
    await one.queue.backlog()
    one._backlog._own(98, 9800)  # events that the new primary has never got
    counted_to = one._backlog._counted_to
    await terminate(nodes, one)
    await one.come_back()
    assert one._backlog.own_events == 148, "what is out may be settled, and be subtracted yet"
    assert await one.queue.settle([done(item) for item in items]) == [True] * 50
    await one.rebalance()
    assert (one._backlog.own_events, one._backlog.own_bytes) == (0, 0)
    assert (await one.queue.backlog()).events == 0

    async def behind(*_: object) -> tuple[int, int, int]:
        return counted_to - 5, 7, 700

    counted_to, one._backlog._database = one._backlog._counted_to, SimpleNamespace(read=behind)  # type: ignore[assignment]
    await one._backlog.count_new(one.queue._fresh.numbers, 0)
    assert (one._backlog.own_events, one._backlog._counted_to) == (0, counted_to)


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


async def test_a_stalled_node_is_ended_by_one_whose_own_heartbeats_are_fresh(nodes: Nodes) -> None:
    stalled, other = await nodes.open(), await nodes.open()
    time = Time(other)
    await time.passes(seconds=5)
    assert stalled.session is not None
    assert stalled.session.is_connected, "five seconds are not long enough"
    await time.passes(seconds=2)
    await until(lambda: stalled.session is not None and not stalled.session.is_connected)
    async with asyncio.timeout(30):
        while len(other.ownership.held) < LOGS:
            await other.rebalance()


@pytest.mark.parametrize("by", ["- interval '1 hour'", "+ interval '1 hour'"], ids=["forward", "back"])
async def test_a_database_whose_clock_was_set_makes_no_node_look_stalled(nodes: Nodes, by: str) -> None:
    """The last heartbeat of each seems to be of another hour."""
    beating, other = await nodes.open(), await nodes.open()
    time = Time(other)
    await time.passes(seconds=5)
    await nodes.execute(f"UPDATE node SET beat_at = beat_at {by}")
    await time.passes(seconds=2)
    await beating.beat()
    await time.passes(seconds=5)
    assert beating.session is not None
    assert beating.session.is_connected


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


async def settle_all(store: PostgresStore) -> int:
    """Claim and settle whatever this node has; how many."""
    store.queue.look_again()
    items = await claim(store, 1000, {})
    assert await store.queue.settle([done(item) for item in items]) == [True] * len(items)
    return len(items)


async def test_a_node_whose_session_ends_while_it_gives_logs_up_counts_nothing_of_them_any_more(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await nodes.open()
    other = await nodes.open()
    real = one.ownership._unlock

    async def unlock(logs: Sequence[int]) -> None:
        await terminate(nodes, one)
        await real(logs)

    monkeypatch.setattr(one.ownership, "_unlock", unlock)
    with pytest.raises(WriteFailure):  # noqa: PT012 (the first time marks them, the second releases them)
        while True:
            await one.rebalance()
    monkeypatch.undo()
    await one.come_back()
    await nodes.share(one, other)
    events = [event_of(one, owner) for owner in owners(100)]
    await other.queue.append(events)
    await one.look_after()
    assert await settle_all(one) + await settle_all(other) == 100
    for node in (one, other):
        await node.beat()
    for node in (one, other):
        await node.look_after()
        assert (await node.queue.backlog()).events == 0


async def test_a_node_whose_session_is_lost_while_it_waits_to_send_what_it_takes_does_not_hold_it(
    nodes: Nodes,
) -> None:
    """Its locks are gone with the session on which they were taken: others may have taken the logs since."""
    one, other = await nodes.open(), await nodes.open()
    await nodes.share(one, other)
    await other.abandon()
    application = other._session_target.application
    async with asyncio.timeout(30):
        while await nodes.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = $1", application):
            await asyncio.sleep(0.01)

    one.ownership._fresh_s = 2.0
    held = len(one.ownership.held)
    taking = asyncio.ensure_future(one.ownership.take(LOGS))
    entered = f"SELECT 1 FROM log WHERE node = {one.ownership.node} HAVING count(*) > {held}"
    async with asyncio.timeout(30):
        while not await nodes.execute(entered):
            await asyncio.sleep(0.01)
    await terminate(nodes, one)
    await one.come_back()
    with pytest.raises(WriteFailure):
        await taking
    assert len(one.ownership.held) == held
    third = await nodes.open()
    await nodes.share(one, third)
    assert one.ownership.held.keys().isdisjoint(third.ownership.held.keys())
    assert len(one.ownership.held) + len(third.ownership.held) == LOGS


async def test_a_takeover_that_fails_halfway_is_done_again_and_nothing_is_counted_twice(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await nodes.open(), await nodes.open()
    await nodes.share(one, other)
    await one.queue.append([event_of(one, owner) for owner in owners(100)])
    await other.abandon()

    async def fail(streams: Sequence[int]) -> list[Stream]:
        raise StoreUnavailable("the connection to the database was lost")

    async with asyncio.timeout(60):
        monkeypatch.setattr(one._fresh, "look", fail)
        with pytest.raises(WriteFailure):  # noqa: PT012 (when the locks are free is up to the server)
            while True:
                await one.beat()
                await one.rebalance()
        monkeypatch.undo()
        await one.rebalance()
        assert len(one.ownership.held) == LOGS
    assert await settle_all(one) == 100
    assert (await one.queue.backlog()).events == 0


async def test_what_another_node_settles_of_a_log_just_given_up_is_not_left_in_the_backlog(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await nodes.open()
    await one.queue.append([event_of(one, owner) for owner in owners(100)])
    assert (await one.queue.backlog()).events == 100
    other = await nodes.open()
    real = one._backlog.taken

    async def taken(streams: Sequence[int], sign: int = 1) -> None:
        if sign < 0:
            await other.rebalance()
            await settle_all(other)
        await real(streams, sign)

    monkeypatch.setattr(one._backlog, "taken", taken)
    await nodes.share(one, other)
    await settle_all(one)
    await settle_all(other)
    for node in (one, other):
        await node.queue.backlog()  # counts what has come
        assert node._backlog.own_events == 0


async def test_a_duty_that_fails_unexpectedly_begins_again_on_a_new_session(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await nodes.open(duties=True, fresh_s=1.0)
    await until(one.queue.may_send)
    real, failed = one.ownership.take_again, asyncio.Event()

    async def take_again() -> list[int]:
        if not failed.is_set():
            failed.set()
            raise KeyError(0)
        return await real()

    monkeypatch.setattr(one.ownership, "take_again", take_again)
    await terminate(nodes, one)
    await asyncio.wait_for(failed.wait(), 30)
    await until(lambda: one.session is not None and one.session.is_connected and one.queue.may_send())
    assert len(one.ownership.held) == LOGS


async def test_a_new_session_is_taken_up_only_when_what_is_under_way_with_the_logs_has_ended(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await nodes.open()
    await nodes.open()
    real = one.ownership.release
    coming_back: list[asyncio.Task[None]] = []

    async def release(logs: Collection[int]) -> None:
        await terminate(nodes, one)
        coming_back.append(asyncio.create_task(one.come_back()))
        await asyncio.sleep(0.3)
        assert not coming_back[0].done()
        await real(logs)

    monkeypatch.setattr(one.ownership, "release", release)
    with pytest.raises(WriteFailure):  # noqa: PT012 (the first time marks them, the second releases them)
        while True:
            await one.rebalance()
    await coming_back[0]
    assert len(one.ownership.held) == LOGS // 2


async def test_what_was_settled_before_it_was_counted_is_in_no_backlog_afterwards(nodes: Nodes) -> None:
    """A look at the backlog counts what has come since the one before: some of it may be settled by then."""
    one, other = await nodes.open(), await nodes.open()
    await nodes.share(one, other)
    await one.queue.append([event_of(one, owner) for owner in owners(100)])
    assert await settle_all(one) == 50
    one._is_counted = False  # as where some of its logs are lost
    await one.rebalance()
    await one.queue.backlog()
    assert one._backlog.own_events == 0
    assert await settle_all(other) == 50
    await other.queue.give_up(list(other.ownership.held))
    assert other._backlog.own_events == 0


async def test_of_two_corrections_at_once_each_notices_what_is_told_while_it_reads(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await nodes.open()
    told: list[Signal] = []
    node.signals.subscribe(told.append)
    one, other = (TokenDeleted(OWNER, "apns", DeviceToken(token)) for token in ("one", "other"))
    await node.registry.add_many([registration("one"), registration("other")], 10)
    may_end: list[asyncio.Event] = []

    class SlowDatabase:
        """It answers, with what was true by then, when it may."""

        async def read(self, job: Callable[[Any], Awaitable[Any]]) -> Any:
            found = await node.database.read(job)
            may_end.append(ends := asyncio.Event())
            await ends.wait()
            return found

    monkeypatch.setattr(node.signals, "_database", SlowDatabase())
    # Another process tells of deletions that it made before both were registered again.
    first = asyncio.create_task(node.signals.correct([one]))
    await until(lambda: len(may_end) == 1)
    second = asyncio.create_task(node.signals.correct([other]))
    await until(lambda: len(may_end) == 2)
    may_end[1].set()
    await second
    # This process deletes one of them, which the first has read as registered.
    await nodes.execute("DELETE FROM device WHERE token = 'one'")
    node.signals.publish([one])
    may_end[0].set()
    await until(lambda: first.done() or len(may_end) == 3)
    may_end[-1].set()
    await first
    of_one = [signal for signal in told if isinstance(signal, TokenDeleted | TokenRegistered) and signal.token == "one"]
    assert of_one[-1] == one


async def test_what_waits_is_known_to_a_process_that_holds_none_of_the_logs(nodes: Nodes) -> None:
    node, api, command = await nodes.open(), await nodes.open(delivers=False), await nodes.open(server=False)
    everyone = owners(20)
    first, *later = [event_of(node, owner) for owner in everyone]
    await api.queue.append([first])
    await asyncio.sleep(0.002)
    await api.queue.append(later)
    await node.queue.backlog()
    assert (node.queue.held().events, api.queue.held().events) == (20, 0)
    assert await api.queue.oldest_ms() is None
    for store in (api, command):
        found = await store.queue.whole_backlog()
        assert (found.events, found.oldest_ms) == (20, first.accepted_ms)
    items = await node.queue.claim(100)
    await node.queue.settle([done(item) for item in items if item.event.id != first.id])
    await node.queue.settle([parked(item, node.now_ms()) for item in items if item.event.id == first.id])
    found = await command.queue.whole_backlog()
    assert (found.events, found.oldest_ms) == (1, first.accepted_ms)


async def test_the_backlog_has_its_bound_also_while_no_process_delivers(nodes: Nodes) -> None:
    api = await nodes.open(delivers=False, max_events=30)
    await api.queue.append([event_of(api, owner) for owner in owners(20)])
    await api.look_after()
    with pytest.raises(BacklogFull):
        await api.queue.append([event_of(api, owner) for owner in owners(20)])
    await api.queue.append([event_of(api, owner) for owner in owners(10)])


def is_away_once(monkeypatch: pytest.MonkeyPatch, reader: Any, method: str) -> None:
    """The first call finds that the database cannot be read."""
    read = getattr(reader, method)

    async def away(*_: Any) -> None:
        monkeypatch.setattr(reader, method, read)
        raise StoreUnavailable

    monkeypatch.setattr(reader, method, away)


async def test_what_another_process_has_changed_is_told_also_where_the_table_cannot_be_read_at_first(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await nodes.open(), await nodes.open()
    told: list[Signal] = []
    other.signals.subscribe(told.append)
    await one.registry.add_many([registration("gone")], 10)
    await other.notice_signals()
    told.clear()
    await one.registry.delete(OWNER, "apns", DeviceToken("gone"))
    is_away_once(monkeypatch, other.signals, "_corrections")
    with pytest.raises(StoreUnavailable):
        await other.notice_signals()
    await other.notice_signals()
    assert told == [TokenDeleted(OWNER, "apns", DeviceToken("gone"))]


async def test_what_was_replayed_elsewhere_is_claimed_also_where_what_is_due_cannot_be_read_at_first(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await nodes.open(), await nodes.open()
    await nodes.share(one, other)
    everyone = owners(50)
    await one.queue.append([event_of(one, owner) for owner in everyone])
    for node in (one, other):
        node.queue.look_again()
        await node.queue.settle([done(item, Result.REFUSED) for item in await claim(node, 100, {})])
    letters = [letter.event.id for letter in (await one.log.dead_letters(100)).letters]
    assert len(letters) == 50
    await one.log.replay(letters, 3_600_000)
    is_away_once(monkeypatch, other.schedule, "refresh")
    with pytest.raises(StoreUnavailable):
        await other.notice_signals()
    await other.rebalance()
    found = [*await claim(one, 100, EVERYTHING), *await claim(other, 100, EVERYTHING)]
    assert sorted(ids(found)) == sorted(letters)
