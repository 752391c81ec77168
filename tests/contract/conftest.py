"""One suite, every store: the fixtures open each of them in turn."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import hypothesis
import pytest
from tests.contract.support import STORES, Clocks, SqliteStores

from tocsin.store.opening import Store

hypothesis.settings.register_profile("quick", max_examples=40, stateful_step_count=30, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=3000, stateful_step_count=60, deadline=None)
PROFILE = os.environ.get("TOCSIN_HYPOTHESIS", "quick")


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture(params=sorted(STORES))
async def stores(request: pytest.FixtureRequest, tmp_path: Path, clocks: Clocks) -> AsyncIterator[SqliteStores]:
    async with AsyncExitStack() as life:
        yield STORES[request.param](tmp_path, clocks, life)


@pytest.fixture
async def store(stores: SqliteStores) -> Store:
    return await stores.open()
