from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.system.house import House


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """One of a test's own: it may kill what it likes."""
    house = House(tmp_path)
    try:
        yield await house.open()
    finally:
        house.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for all tests of a file: they leave it running, and mend what they break."""
    house = House(tmp_path_factory.mktemp("shared"), {"server": {"request_timeout_s": 2.0}})
    try:
        yield asyncio.run(house.open(users=20, disk=True))
    finally:
        house.close()
