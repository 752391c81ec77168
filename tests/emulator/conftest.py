"""Fixtures: running emulators, each with its own directory."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.emulator.harness import Harness, StartEmulator

from tocsin.emulator.credentials import write_credentials, write_service_account
from tocsin.emulator.run import EmulatorOptions, start


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with credentials, made once because RSA keys take long; an emulator keeps those that exist."""
    directory = tmp_path_factory.mktemp("emulator")
    write_service_account(write_credentials(directory), "https://localhost/token")
    return directory


@pytest.fixture
async def start_emulator(tmp_path: Path, credentials: Path) -> AsyncIterator[StartEmulator]:
    """Starts an emulator with the given options."""
    async with AsyncExitStack() as stack:

        async def begin(**options: Any) -> Harness:
            directory = tmp_path / "emulator"
            shutil.copytree(credentials, directory, dirs_exist_ok=True)
            emulator = await stack.enter_async_context(start(EmulatorOptions(directory=directory, **options)))
            return Harness(emulator, stack)

        yield begin


@pytest.fixture
async def harness(start_emulator: StartEmulator) -> Harness:
    return await start_emulator()
