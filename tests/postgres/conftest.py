"""A database of the test's own, on the server that all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.postgres.nodes import Nodes
from tests.support.clocks import Clocks
from tests.support.postgres import PostgresStores, drop_database, new_database


@pytest.fixture
async def database() -> AsyncIterator[str]:
    name = await new_database()
    yield name
    await drop_database(name)


@pytest.fixture
async def nodes(database: str) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as life:
        yield Nodes(database, life)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
async def stores(clocks: Clocks, tmp_path: Path) -> AsyncIterator[PostgresStores]:
    async with AsyncExitStack() as life:
        yield PostgresStores(tmp_path, clocks, life)
