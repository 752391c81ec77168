"""A database that was restored from a dump: its rows have another server's numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.contract.support import OWNER, claim, done
from tests.postgres.nodes import Nodes, event_of
from tests.support.postgres import options
from tests.support.postgres_server import FAST, PostgresServer, remove, run

from tocsin.store.ports import StoreError
from tocsin.store.postgres import maintenance
from tocsin.store.postgres.opening import open_store

_AHEAD = 2000
"""So many transactions the first server is ahead of a new one, and more."""


@pytest.fixture
def other() -> Iterator[PostgresServer]:
    server = PostgresServer(FAST).start()
    yield server
    remove(server)


async def test_a_dump_of_another_server_is_refused_until_this_one_goes_on_above_its_numbers(
    nodes: Nodes, other: PostgresServer
) -> None:
    """Before, such a store was opened, and nothing in it was ever delivered."""
    node = await nodes.open()
    await nodes.execute(f"DO $$ BEGIN FOR n IN 1..{_AHEAD} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    waiting = event_of(node, OWNER)
    await node.queue.append([waiting])
    await node.close()
    file = other.directory / "dump"
    run("pg_dump", "-d", nodes.url, "-Fc", "-f", file)
    run("pg_restore", "-d", other.url(), "--no-owner", file)

    for server in (True, False):
        with pytest.raises(StoreError, match=r"a dump of another server's.*pg_resetwal --epoch=1 "):
            await open_store(options(other.url(), None), server=server)
    findings = await maintenance.check(other.url(), None, keep_s=0)
    assert any("a dump of another server's" in finding for finding in findings)

    other.stop()
    run("pg_resetwal", "--epoch=1", "-D", other.data)
    other.start()
    assert await maintenance.check(other.url(), None, keep_s=0) == []
    store = await open_store(options(other.url(), None), server=True)
    try:
        await store.start()
        following = event_of(store, OWNER)
        await store.queue.append([following])
        items = await claim(store, 10, {})
        assert [item.event for item in items] == [waiting, following]
        assert await store.queue.settle([done(item) for item in items]) == [True, True]
    finally:
        await store.close()
