"""Several writers, one reader: nothing is passed over, and what belongs together stays in order."""

from __future__ import annotations

import asyncio

from tests.contract.support import OWNER, TOKEN, claim, done, ids, registration
from tests.postgres.nodes import Nodes, event_of, owners

from tocsin.domain.devices import DeviceToken
from tocsin.store.postgres.append_sql import _INSERT
from tocsin.store.postgres.places import day_of, log_of
from tocsin.store.records import TokenDeleted


async def test_an_event_whose_commit_ends_after_a_later_one_is_read(nodes: Nodes) -> None:
    """Its number is lower than what was read already: a cursor on the number alone would pass over it."""
    node = await nodes.open()
    late, early = event_of(node, OWNER), event_of(node, OWNER)
    slow = await nodes.connection()
    transaction = slow.transaction()
    await transaction.start()
    await slow.fetchval(_INSERT, day_of(node.now_ms()), *await node.queue.inserts.values([late]))
    await node.queue.append([early])
    assert await claim(node, 10, {}) == [], "what comes before it may be on its way"
    await transaction.commit()
    assert ids(await claim(node, 10, {})) == [late.id, early.id]


async def test_a_transaction_of_another_database_holds_nothing_back_for_ever(nodes: Nodes) -> None:
    """The oldest transaction is the whole server's. What waits for it is found as soon as it has ended."""
    node = await nodes.open()
    other = await nodes.connection()
    transaction = other.transaction()
    await transaction.start()
    await other.fetchval("SELECT pg_current_xact_id()")
    event = event_of(node, OWNER)
    await node.queue.append([event])
    assert await claim(node, 10, {}) == []
    waiting = asyncio.ensure_future(node.queue.wait(30))
    await transaction.rollback()
    await asyncio.wait_for(waiting, 10)
    assert ids(await claim(node, 10, {})) == [event.id]


async def test_many_writers_at_once_lose_nothing_and_keep_each_owners_order(nodes: Nodes) -> None:
    node, *writers = [await nodes.open()] + [await nodes.open(server=False) for _ in range(3)]
    everyone = owners(12)
    sent: dict[str, list[str]] = {owner: [] for owner in everyone}

    async def write(number: int) -> None:
        for round in range(15):
            own = everyone[number * 4 : number * 4 + 4]
            events = [event_of(node, owner, phone=f"{round}") for owner in own]
            await writers[number].queue.append(events)
            for event in events:
                sent[event.owner].append(event.id)

    got: dict[str, list[str]] = {owner: [] for owner in everyone}

    async def read() -> None:
        while sum(map(len, got.values())) < 12 * 15:
            items = await node.queue.claim(7)
            for item in items:
                got[item.event.owner].append(item.event.id)
            await node.queue.settle([done(item) for item in items])
            if not items:
                node.queue.look_again()
                await asyncio.sleep(0.001)

    async with asyncio.timeout(60):
        await asyncio.gather(read(), *(write(number) for number in range(3)))
    assert got == sent


async def test_an_event_after_a_registration_elsewhere_finds_the_device(nodes: Nodes) -> None:
    """The node has the owner's devices in memory, and has heard no signal yet: the mark in the log is what it reads."""
    node, other = await nodes.open(), await nodes.open(server=False)
    await node.registry.add(registration("b"), 100)
    assert len((await node.registry.devices_of([OWNER]))[OWNER]) == 1
    await other.registry.add(registration("a"), 100)
    await other.queue.append([event_of(node, OWNER)])
    node.queue.look_again()
    assert len(await claim(node, 10, {})) == 1
    devices = (await node.registry.devices_of([OWNER]))[OWNER]
    assert [device.token for device in devices] == ["b", "a"]


async def test_what_was_registered_before_a_takeover_is_known_to_a_node_that_had_the_log_before(nodes: Nodes) -> None:
    """It passes over the marks in the log. It has to hear of a deletion before: heard of later, it would keep from the
    device what was accepted after the registration that followed."""
    node, other, writer = await nodes.open(), await nodes.open(), await nodes.open(server=False)
    await nodes.share(node, other)
    owner = next(owner for owner in owners(100) if log_of(owner) in other.ownership.held)
    await node.registry.add(registration("b", owner=owner), 100)
    assert len((await node.registry.devices_of([owner]))[owner]) == 1
    await other.close()
    await node.beat()
    signals: list[object] = []
    node.signals.subscribe(signals.append)
    await writer.registry.add(registration("a", owner=owner), 100)
    await writer.registry.delete(owner, "apns", DeviceToken("a"))
    await writer.registry.add(registration("a", owner=owner), 100)
    await writer.queue.append([event_of(node, owner)])
    await node.rebalance()
    assert len(await claim(node, 10, {})) == 1
    assert TokenDeleted(owner, "apns", DeviceToken("a")) in signals
    devices = (await node.registry.devices_of([owner]))[owner]
    assert [device.token for device in devices] == ["b", "a"]


async def test_an_event_behind_very_many_registrations_is_found_at_once_when_its_log_is_taken_over(
    nodes: Nodes,
) -> None:
    """After an import of a million devices the first event waited for half a minute: each of them was read."""
    writer = await nodes.open(server=False)
    for n in range(60):
        await writer.registry.add(registration(f"{n}"), 100)
    event = event_of(writer, OWNER)
    await writer.queue.append([event])
    node = await nodes.open()
    assert ids(await claim(node, 1, {})) == [event.id]


async def test_a_signal_that_commits_late_is_heard(nodes: Nodes) -> None:
    """Its id is lower than that of one that was read already."""
    node, other = await nodes.open(), await nodes.open(server=False)
    await node.registry.add(registration("a"), 100)
    signals: list[object] = []
    node.signals.subscribe(signals.append)
    slow = await nodes.connection()
    transaction = slow.transaction()
    await transaction.start()
    body = '{"type":"AccessRevoked"}'
    await slow.execute("INSERT INTO signal(origin, body) VALUES (1, $1)", body)
    await other.registry.delete(OWNER, "apns", TOKEN)
    await node.notice_changes()
    assert len(signals) == 1
    await transaction.commit()
    await node.notice_changes()
    assert len(signals) == 2, signals


async def test_a_node_says_for_how_long_a_transaction_has_kept_it_from_what_waits(nodes: Nodes) -> None:
    node = await nodes.open()
    assert node.queue.held_up_s() == 0
    other = await nodes.connection()
    transaction = other.transaction()
    await transaction.start()
    await other.fetchval("SELECT pg_current_xact_id()")
    assert await claim(node, 10, {}) == []
    assert node.queue.held_up_s() == 0, "nothing waits for it"
    await node.queue.append([event_of(node, OWNER)])
    assert await claim(node, 10, {}) == []
    first = node.queue.held_up_s()
    assert first > 0
    await node.queue.append([event_of(node, one) for one in owners(20)])
    await asyncio.sleep(0.05)
    assert await claim(node, 10, {}) == []
    assert node.queue.held_up_s() >= first + 0.05, "since the first of them"
    await transaction.rollback()
    assert len(await claim(node, 100, {})) == 21
    assert node.queue.held_up_s() == 0


async def test_where_what_was_held_up_is_erased_nothing_is_held_up_any_more(nodes: Nodes) -> None:
    node = await nodes.open()
    other = await nodes.connection()
    transaction = other.transaction()
    await transaction.start()
    await other.fetchval("SELECT pg_current_xact_id()")
    await node.queue.append([event_of(node, OWNER)])
    assert await claim(node, 10, {}) == []
    await nodes.execute("DELETE FROM event")
    await transaction.rollback()
    assert await claim(node, 10, {}) == []
    assert node.queue.held_up_s() == 0
