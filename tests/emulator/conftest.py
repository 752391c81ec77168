"""Emulators for tests, each in a directory of its own."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.emulator.lab import Lab, Laboratory

from tocsin.emulator.credentials import write_credentials, write_service_account
from tocsin.emulator.run import EmulatorOptions, start


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with credentials: RSA keys take a while to make, and an emulator keeps those that it finds."""
    directory = tmp_path_factory.mktemp("emulator")
    write_service_account(write_credentials(directory), "https://localhost/token")
    return directory


@pytest.fixture
async def laboratory(tmp_path: Path, credentials: Path) -> AsyncIterator[Laboratory]:
    """Starts an emulator with these options."""
    async with AsyncExitStack() as stack:

        async def begin(**options: Any) -> Lab:
            directory = tmp_path / "emulator"
            shutil.copytree(credentials, directory, dirs_exist_ok=True)
            emulator = await stack.enter_async_context(start(EmulatorOptions(directory=directory, **options)))
            return Lab(emulator, stack)

        yield begin


@pytest.fixture
async def lab(laboratory: Laboratory) -> Lab:
    return await laboratory()
