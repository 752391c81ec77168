"""How a source is doing, for readiness and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tocsin.domain.events import Event


class SourceMetrics(Protocol):
    """What is counted of a source. No label holds an owner, an event or a part of a message."""

    def source_connected(self, source: str, connected: bool) -> None: ...

    def source_appended(self, consumer: str, events: Sequence[Event], lag_s: float) -> None:
        """These events are durable; the oldest of them was given to the bus `lag_s` before."""

    def source_refused(self, consumer: str, status: int) -> None:
        """A message was refused, as HTTP would with this status."""

    def source_waiting(self, consumer: str, pending: int, unacknowledged: int, redelivered: int) -> None:
        """How many messages wait in the stream, how many are not acknowledged yet, and how many of these were delivered
        before."""


class SourceStatus:
    """What is wrong with a source at present, for readiness; and whether that is news, for the log."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    def problem(self, part: str, sentence: str) -> bool:
        """This part does not work; whether that is news."""
        news = self._problems.get(part) != sentence
        self._problems[part] = sentence
        return news

    def mended(self, part: str) -> bool:
        """It works again; whether it did not before."""
        return self._problems.pop(part, None) is not None

    def problems(self) -> list[str]:
        return list(self._problems.values())
