"""One suite, every store: the fixtures open each of them in turn."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import hypothesis
import pytest
from tests.contract.factories import FACTORIES, KINDS, Stores
from tests.support.clocks import Clocks

from tocsin.store.ports import Store

hypothesis.settings.register_profile("quick", max_examples=40, stateful_step_count=30, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=3000, stateful_step_count=60, deadline=None)
PROFILE = os.environ.get("TOCSIN_HYPOTHESIS", "quick")


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture(params=KINDS)
async def stores(request: pytest.FixtureRequest, tmp_path: Path, clocks: Clocks) -> AsyncIterator[Stores]:
    if request.param == "model" and request.module.__name__.endswith("test_search"):
        pytest.skip(reason="the index of the search is SQL alone, which the model of the database leaves out")
    async with AsyncExitStack() as life:
        yield FACTORIES[request.param](tmp_path, clocks, life)


@pytest.fixture
async def store(stores: Stores) -> Store:
    return await stores.open()
