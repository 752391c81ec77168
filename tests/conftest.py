"""What every test begins with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import structlog

_MEMORY: Final = Path("/dev/shm")
_ENOUGH_BYTES: Final = 2 * 1024**3


def pytest_configure() -> None:
    """Files of tests are in memory where there is room: thousands of stores are made, and each waits for its disk.

    What is about the disk itself (`tests.torture`, `tests.power_loss`) has directories of its own.
    """
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.fixture(autouse=True)
def whole_log() -> Iterator[None]:
    """Log lines of every level, whatever a command that ran before in this process has configured."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
