"""Tells the log when a service stops being usable and when it is so again, without a line per request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_BETWEEN_LINES_S: Final = 10.0
"""A session that makes the service fail, given again and again, must not fill the log."""


class Outage:
    """Whether a service is usable, as the last request found it. `monotonic` measures times."""

    def __init__(self, service: str, monotonic: Callable[[], float]) -> None:
        self._service = service
        self._monotonic = monotonic
        self.reason: str | None = None
        """Why it is not usable; None where it is."""
        self._told: str | None = None
        self._told_at: float | None = None

    def note(self, reason: str | None) -> None:
        """Note what a request has found: why the service is not usable, or None. The reason is logged."""
        self.reason = reason
        now = self._monotonic()
        if reason == self._told or (self._told_at is not None and now - self._told_at < _BETWEEN_LINES_S):
            return
        self._told, self._told_at = reason, now
        if reason is not None:
            log.warning("sign-in: a service cannot be used", service=self._service, reason=reason)
        else:
            log.info("sign-in: a service can be used again", service=self._service)
