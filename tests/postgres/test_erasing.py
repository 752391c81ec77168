"""A user is erased through one process while another one delivers."""

from __future__ import annotations

import pytest
from tests.contract.support import EVERYTHING, OTHER_OWNER, OWNER, device_of, done, ids, parked, register
from tests.postgres.nodes import Nodes, event_of, until

from tocsin.domain.devices import DeviceToken
from tocsin.store.ports import StoreError
from tocsin.store.postgres import users
from tocsin.store.records import Result, TokenDeleted


async def test_what_another_node_has_out_of_an_erased_user_leaves_no_row_when_it_is_settled(nodes: Nodes) -> None:
    node, command = await nodes.open(duties=True), await nodes.open(server=False)
    events = [event_of(node, OWNER) for _ in range(5)]
    await node.queue.append([*events, event_of(node, OTHER_OWNER)])
    await until(lambda: node.freshness.in_a_row > 1)
    items = await node.queue.claim(10)
    own = [item for item in items if item.event.owner == OWNER]
    (other,) = [item for item in items if item.event.owner != OWNER]
    await node.queue.settle([parked(own[4], node.now_ms())])
    (waiting,) = await node.schedule.claim_due(EVERYTHING)
    erased = await command.users.erase(OWNER)
    assert (erased.events, erased.waiting, erased.left) == (5, 5, ())
    settled = [
        done(own[0]),
        done(own[1], Result.REFUSED),
        parked(own[2], node.now_ms()),
        done(waiting, Result.TOKEN_DEAD),
        done(other, Result.REFUSED),
    ]
    assert await node.queue.settle(settled) == [True] * 5
    await node.queue.release([own[3]])
    for table, left in (("event", 1), ("settlement", 1), ("parked", 0), ("kept", 1), ("event_id", 1)):
        rows = await nodes.execute(f"SELECT count(*) FROM {table}")
        assert (table, rows[0][0]) == (table, left)
    assert [letter.event.owner for letter in (await node.log.dead_letters(10)).letters] == [OTHER_OWNER]
    await node.notice_changes()
    assert (await node.queue.backlog()).events == 0


async def test_every_node_knows_that_the_user_is_gone_and_no_signal_names_the_user_any_more(nodes: Nodes) -> None:
    node, erasing = await nodes.open(duties=True), await nodes.open(duties=True)
    await register(node, "phone")
    assert await device_of(node, "phone")
    told: list[object] = []
    node.signals.subscribe(told.append)
    await erasing.users.erase(OWNER)
    assert TokenDeleted(OWNER, "apns", DeviceToken("phone")) in told
    assert await node.registry.devices_of([OWNER]) == {}
    assert await nodes.execute("SELECT body FROM signal WHERE position($1 IN body) > 0", OWNER) == []
    await register(node, "new phone")
    event = event_of(erasing, OWNER)
    await erasing.queue.append([event])
    await until(lambda: (node.ownership.held.keys() | erasing.ownership.held.keys()) == set(range(64)))
    found = [*await node.queue.claim(10), *await erasing.queue.claim(10)]
    assert ids(found) == [event.id]


async def test_a_node_that_does_not_answer_is_told_of_and_everything_is_removed_all_the_same(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "_NOTICED_WITHIN_S", 0.2)
    node, command = await nodes.open(), await nodes.open(server=False)
    event = event_of(node, OWNER)
    await node.queue.append([event])
    await register(node, "phone")
    with pytest.raises(StoreError, match="run the command again"):
        await command.users.erase(OWNER)
    assert await command.log.record(event.id) is None
    assert await command.registry.history(owner=OWNER) == []
    await node.close()
    assert (await command.users.erase(OWNER)).left == ()
