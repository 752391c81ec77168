"""A database of the test's own, on the server that all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.postgres.nodes import Nodes
from tests.support.postgres import drop_database, new_database


@pytest.fixture
async def database() -> AsyncIterator[str]:
    name = await new_database()
    yield name
    await drop_database(name)


@pytest.fixture
async def nodes(database: str) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as life:
        yield Nodes(database, life)
