"""The model of the database does what PostgreSQL does where several sessions meet (PostgreSQL, "Concurrency Control").

That its statements do what those of the store do is checked by `tests/contract`, where the model is a store of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.simulator.model_store.connection import ModelConnection, Way
from tests.simulator.model_store.database import ModelDatabase
from tocsin.store.postgres import nodes, places, positions, wakes
from tocsin.store.postgres.session import NODE_LOCKS

GET, SET, XMIN = positions._GET, positions._SET, f"SELECT {places.XMIN}"


@pytest.fixture
def database() -> ModelDatabase:
    return ModelDatabase(lambda: 1_800_000_000.0)


async def connected(database: ModelDatabase) -> ModelConnection:
    return await Way(database).dial("", server_settings={"application_name": "test"}, timeout=1)


async def begun(connection: ModelConnection, *sets: str) -> Any:
    transaction = connection.transaction()
    await transaction.start()
    for name in sets:
        await connection.execute(SET, name, 1)
    return transaction


async def test_what_is_not_committed_is_seen_by_its_transaction_alone_which_holds_back_the_oldest(
    database: ModelDatabase,
) -> None:
    one, other = await connected(database), await connected(database)
    transaction = await begun(one, "a")
    assert await one.fetchval(GET, "a") == 1
    assert await other.fetchval(GET, "a") is None
    await other.execute(SET, "b", 1)
    before = await other.fetchval(XMIN)
    await transaction.commit()
    assert await other.fetchval(GET, "a") == 1
    assert await other.fetchval(XMIN) == before + 2


async def test_of_what_is_rolled_back_nothing_is_left(database: ModelDatabase) -> None:
    one = await connected(database)
    await one.execute(SET, "a", 7)
    transaction = await begun(one, "a", "b")
    await transaction.rollback()
    assert (await one.fetchval(GET, "a"), await one.fetchval(GET, "b")) == (7, None)


async def test_who_writes_what_another_has_written_waits_for_its_end(database: ModelDatabase) -> None:
    one, other = await connected(database), await connected(database)
    transaction = await begun(one, "a")
    waiting = asyncio.ensure_future(other.execute(SET, "a", 2))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await transaction.commit()
    await asyncio.wait_for(waiting, 5)
    assert await one.fetchval(GET, "a") == 2


async def test_two_that_wait_for_each_other_are_told_so(database: ModelDatabase) -> None:
    one, other = await connected(database), await connected(database)
    first, second = await begun(one, "a"), await begun(other, "b")
    waiting = asyncio.ensure_future(one.execute(SET, "b", 2))
    await asyncio.sleep(0.01)
    with pytest.raises(asyncpg.DeadlockDetectedError):
        await other.execute(SET, "a", 2)
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await other.fetchval(GET, "a")
    await second.rollback()
    await asyncio.wait_for(waiting, 5)
    await first.commit()


async def test_a_session_that_ends_gives_up_its_locks_and_its_transaction(database: ModelDatabase) -> None:
    one, other = await connected(database), await connected(database)
    await one.fetchval(nodes._LOCK, 1)
    await begun(one, "a")
    assert not await other.fetchval(nodes._LOCK, 1)
    database.terminate(one.backend)
    assert one.is_closed()
    assert database.locks.in_space(NODE_LOCKS) == []
    await other.execute(SET, "a", 2)
    with pytest.raises(asyncpg.InterfaceError, match="closed"):
        await one.fetchval(GET, "a")


async def test_what_is_notified_is_heard_after_the_commit(database: ModelDatabase) -> None:
    one, other = await connected(database), await connected(database)
    heard: list[str] = []
    await other.add_listener("tocsin", lambda connection, pid, channel, payload: heard.append(payload))
    transaction = await begun(one)
    await one.execute(wakes._NOTIFY, "tocsin", "signals")
    assert heard == []
    await transaction.commit()
    assert heard == ["signals"]


async def test_a_commit_that_is_on_its_way_may_survive_a_crash_and_nothing_else_does(database: ModelDatabase) -> None:
    database.commit_s = lambda: 60.0
    one = await connected(database)
    setting = asyncio.ensure_future(one.execute(SET, "a", 1))
    await asyncio.sleep(0.01)
    database.go_down(lambda: True)
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await setting
    with pytest.raises(asyncpg.CannotConnectNowError):
        await connected(database)
    database.come_up()
    database.commit_s = lambda: 0.0
    other = await connected(database)
    assert await other.fetchval(GET, "a") == 1
    assert await other.fetchval(XMIN) == database.next_number


async def test_a_statement_that_the_model_does_not_know_is_refused(database: ModelDatabase) -> None:
    with pytest.raises(NotImplementedError, match="does not know"):
        await (await connected(database)).fetch("SELECT 2")
