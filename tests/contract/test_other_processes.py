"""A command beside the server changes the same file: the server notices."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.support import EVERYTHING, OWNER, Clocks, SqliteStores, done, handed_in, ids, make_event, new

from tocsin.store.opening import StoreError
from tocsin.store.ports import Backlog, EventIdConflict


async def test_nothing_is_noticed_where_nothing_has_changed(stores: SqliteStores, clocks: Clocks) -> None:
    server = await stores.open()
    await server.queue.append([new(make_event(clocks))])
    assert not await server.notice_changes()
    assert not await server.notice_changes()


async def test_an_event_appended_by_another_process_is_noticed_and_counted(
    stores: SqliteStores, clocks: Clocks
) -> None:
    server = await stores.open()
    assert await server.queue.claim(10, {}) == []
    other = await stores.open(server=False)
    event = make_event(clocks)
    await other.queue.append([new(event)])
    waiting = asyncio.ensure_future(server.queue.wait(30))
    assert await server.notice_changes()
    await asyncio.wait_for(waiting, 10)
    assert server.queue.backlog() == Backlog(1, len(event.body))
    (item,) = await server.queue.claim(10, {})
    assert item.event == event
    await server.queue.settle([done(item)])
    assert server.queue.backlog() == Backlog(0, 0)


async def test_a_change_between_opening_and_the_first_look_is_noticed(stores: SqliteStores, clocks: Clocks) -> None:
    server, other = await stores.open(), await stores.open(server=False)
    await other.queue.append([new(make_event(clocks))])
    assert await server.notice_changes()
    assert len(await server.queue.claim(10, {})) == 1


@pytest.mark.parametrize("urgent", [False, True])
async def test_an_event_appended_between_two_of_the_servers_own_is_not_lost(
    stores: SqliteStores, clocks: Clocks, urgent: bool
) -> None:
    server, other = await stores.open(), await stores.open(server=False)
    assert await server.queue.claim(10, {}) == []
    first, foreign, last = make_event(clocks), make_event(clocks, urgent=urgent), make_event(clocks)
    await server.queue.append([new(first)])
    await other.queue.append([new(foreign)])
    await server.queue.append([new(last)])
    found = [id for _ in range(3) for id in ids(await server.queue.claim(10, {}))]
    assert sorted(found) == sorted([first.id, foreign.id, last.id])
    await server.notice_changes()
    assert await server.queue.claim(10, EVERYTHING) == []
    assert server.queue.backlog().events == 3


async def test_what_the_server_has_claimed_is_not_given_out_again_after_a_change(
    stores: SqliteStores, clocks: Clocks
) -> None:
    server, other = await stores.open(), await stores.open(server=False)
    await server.queue.append([new(make_event(clocks)) for _ in range(5)])
    assert len(await server.queue.claim(3, {})) == 3
    await other.queue.append([new(make_event(clocks))])
    await server.notice_changes()
    assert len(await server.queue.claim(10, {})) + len(await server.queue.claim(10, {})) == 3


async def test_ids_are_remembered_across_processes(stores: SqliteStores, clocks: Clocks) -> None:
    server, other = await stores.open(), await stores.open(server=False)
    event = make_event(clocks)
    await other.queue.append([handed_in(event)])
    await server.queue.append([handed_in(event)])
    with pytest.raises(EventIdConflict):
        await server.queue.append([handed_in(make_event(clocks, id=event.id, padding=1))])
    await server.notice_changes()
    assert server.queue.backlog().events == 1
    assert len(await server.queue.claim(10, {})) == 1


async def test_a_second_server_is_refused(stores: SqliteStores) -> None:
    await stores.open()
    with pytest.raises(StoreError, match="another tocsin server is using it"):
        await stores.open()


async def test_after_an_orderly_end_the_next_server_goes_on(stores: SqliteStores, clocks: Clocks) -> None:
    server = await stores.open()
    await server.queue.append([new(make_event(clocks))])
    await server.access.create_session(OWNER, None)
    server = await stores.reopen()
    assert len(await server.queue.claim(10, {})) == 1
