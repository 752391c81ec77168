from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.postgres import drop_database, new_database
from tests.support.postgres_server import shared_server
from tests.system.running_system import RunningSystem


@pytest_asyncio.fixture
async def system(tmp_path: Path) -> AsyncIterator[RunningSystem]:
    """For one test: it may kill the processes."""
    system = RunningSystem(tmp_path)
    try:
        yield await system.open()
    finally:
        system.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """For all tests of a file: they leave it running, and let everything work again."""
    system = RunningSystem(tmp_path_factory.mktemp("shared"), {"server": {"request_timeout_s": 2.0}})
    try:
        yield asyncio.run(system.open(users=20, disk=True))
    finally:
        system.close()


@pytest_asyncio.fixture
async def database() -> AsyncIterator[str]:
    """The URL of an empty store on PostgreSQL."""
    name = await new_database()
    yield shared_server().url(name)
    await drop_database(name)
