"""What libraries write to Python's own log: as lines of tocsin's log, and not too many of them.

Python would write them to standard error as plain text, however many there are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_EVERY_S: Final = 60.0
_MOST_TEMPLATES: Final = 256
"""Of which it is remembered when they were last written."""


class LibraryLogs(logging.Handler):
    """Writes one record of each kind a minute; the next line of this kind says how many were left out.

    Records are of one kind where they come from the same line of code.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._monotonic = monotonic
        self._written: dict[tuple[str, int], tuple[float, int]] = {}
        """Per kind: when it was last written, and how many were left out since."""

    def emit(self, record: logging.LogRecord) -> None:
        now, kind = self._monotonic(), (record.pathname, record.lineno)
        last, left_out = self._written.get(kind, (None, 0))
        if last is not None and now < last + _EVERY_S:
            self._written[kind] = (last, left_out + 1)
            return
        if len(self._written) >= _MOST_TEMPLATES:
            self._written.clear()
        self._written[kind] = (now, 0)
        more = {"left_out": left_out} if left_out else {}
        try:
            message = record.getMessage()
        except Exception:  # Whoever wrote it has made a mistake in its arguments.
            message = str(record.msg)
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write(message.strip(), logger=record.name, exc_info=record.exc_info or None, **more)


def take_over_library_logs() -> None:
    """Send what libraries log to tocsin's log, from the root logger on. To be called twice changes nothing."""
    root = logging.getLogger()
    if not any(isinstance(handler, LibraryLogs) for handler in root.handlers):
        root.addHandler(LibraryLogs())
