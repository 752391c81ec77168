"""Lines of the log, as a test sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.testing import capture_logs


@contextmanager
def every_line() -> Iterator[list[Any]]:
    """The lines that are logged meanwhile, of every level, whatever a command that ran before in this process has
    configured."""
    before = structlog.get_config()
    structlog.reset_defaults()
    try:
        with capture_logs() as lines:
            yield lines
    finally:
        structlog.configure(**before)
