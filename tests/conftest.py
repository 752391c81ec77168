"""What every test begins with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def whole_log() -> Iterator[None]:
    """Log lines of every level, whatever a command that ran before in this process has configured."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
