"""What delivery counts. Whoever starts it says where to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class DeliveryMetrics(Protocol):
    """Counters. None of them is ever told a token, a user or an event."""

    def claimed(self, items: int) -> None:
        """Items were taken from the queue."""

    def attempt(self, lane: str, result: str, reason: str, count: int = 1) -> None:
        """Attempts ended."""

    def settled(self, items: int) -> None:
        """Items were settled."""

    def took(self, samples: Sequence[tuple[str, int]]) -> None:
        """Of some of the items that were settled: the lane of the last delivery, and the milliseconds from the event's
        acceptance until its provider took it."""

    def lost(self, items: int) -> None:
        """Items could not be settled: ownership of them had ended."""

    def token_removed(self, lane: str) -> None:
        """A token was removed that a provider had declared dead."""
