"""A command beside the server changes the same file: the server notices."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.factories import Stores
from tests.contract.support import EVERYTHING, OWNER, claim, done, ids, make_event
from tests.support.clocks import Clocks

from tocsin.store.ports import EventIdConflict
from tocsin.store.records import Backlog


async def test_an_event_appended_by_another_process_is_noticed_and_counted(stores: Stores, clocks: Clocks) -> None:
    server = await stores.open()
    assert await claim(server, 10, {}) == []
    other = await stores.open(server=False)
    event = make_event(clocks)
    await other.queue.append([event])
    waiting = asyncio.ensure_future(server.queue.wait(30))
    await stores.noticed(server)
    await asyncio.wait_for(waiting, 10)
    assert await server.queue.backlog() == Backlog(1, len(event.body))
    (item,) = await claim(server, 10, {})
    assert item.event == event
    await server.queue.settle([done(item)])
    assert await server.queue.backlog() == Backlog(0, 0)


async def test_a_change_between_opening_and_the_first_look_is_noticed(stores: Stores, clocks: Clocks) -> None:
    server, other = await stores.open(), await stores.open(server=False)
    await other.queue.append([make_event(clocks)])
    await stores.noticed(server)
    assert len(await claim(server, 10, {})) == 1


@pytest.mark.parametrize("urgent", [False, True])
async def test_an_event_appended_between_two_of_the_servers_own_is_not_lost(
    stores: Stores, clocks: Clocks, urgent: bool
) -> None:
    server, other = await stores.open(), await stores.open(server=False)
    assert await claim(server, 10, {}) == []
    first, foreign, last = make_event(clocks), make_event(clocks, urgent=urgent), make_event(clocks)
    await server.queue.append([first])
    await other.queue.append([foreign])
    await server.queue.append([last])
    found = [id for _ in range(3) for id in ids(await claim(server, 10, {}))]
    assert sorted(found) == sorted([first.id, foreign.id, last.id])
    await stores.noticed(server)
    assert await claim(server, 10, EVERYTHING) == []
    assert (await server.queue.backlog()).events == 3


async def test_what_the_server_has_claimed_is_not_given_out_again_after_a_change(
    stores: Stores, clocks: Clocks
) -> None:
    server, other = await stores.open(), await stores.open(server=False)
    await server.queue.append([make_event(clocks) for _ in range(5)])
    assert len(await claim(server, 3, {})) == 3
    await other.queue.append([make_event(clocks)])
    await stores.noticed(server)
    assert len(await claim(server, 10, {})) + len(await claim(server, 10, {})) == 3


async def test_ids_are_remembered_across_processes(stores: Stores, clocks: Clocks) -> None:
    server, other = await stores.open(), await stores.open(server=False)
    event = make_event(clocks)
    await other.queue.append([event])
    await server.queue.append([event])
    with pytest.raises(EventIdConflict):
        await server.queue.append([make_event(clocks, id=event.id, padding=1)])
    await stores.noticed(server)
    assert (await server.queue.backlog()).events == 1
    assert len(await claim(server, 10, {})) == 1


async def test_after_an_orderly_end_the_next_server_goes_on(stores: Stores, clocks: Clocks) -> None:
    server = await stores.open()
    await server.queue.append([make_event(clocks)])
    await server.access.create_session(OWNER, None)
    server = await stores.reopen()
    assert len(await claim(server, 10, {})) == 1
