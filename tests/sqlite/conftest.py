"""Stores on a SQLite file of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.support.clocks import Clocks
from tests.support.sqlite import SqliteStores

from tocsin.store.sqlite.store import SqliteStore


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
async def stores(tmp_path: Path, clocks: Clocks) -> AsyncIterator[SqliteStores]:
    async with AsyncExitStack() as life:
        yield SqliteStores(tmp_path, clocks, life)


@pytest.fixture
async def store(stores: SqliteStores) -> SqliteStore:
    return await stores.open()
