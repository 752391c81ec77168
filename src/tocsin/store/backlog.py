"""The bound of what waits, and how fast it drains: so when a producer that found it full should try again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from tocsin.store.ports import BacklogFull, BatchTooLarge
from tocsin.store.records import Backlog, Bound

_WINDOW_S: Final = 10.0
_RETRY_AFTER_S: Final = (1, 300)
_SHARE_TO_DRAIN: Final = 0.1
"""A producer is asked to try again when about this share of the bound is free."""


class BacklogBound:
    """Counts events and bytes that are accepted and not settled for good."""

    def __init__(self, max_events: int, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._events = 0
        self._bytes = 0
        self.is_followed = False
        """Whether every change is counted here: in the server. A command measures before it appends."""
        self._finished: deque[tuple[float, int]] = deque()

    async def measure(self, events: int, size_bytes: int) -> None:
        """Look for what waits: closely only where so much more might be too much. Each store's own.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        raise NotImplementedError

    def now(self) -> Backlog:
        return Backlog(max(0, self._events), max(0, self._bytes))

    def is_too_much(self, events: int, size_bytes: int) -> bool:
        return self._events + events > self._max_events or self._bytes + size_bytes > self._max_bytes

    def refusal(self, events: int, size_bytes: int) -> BacklogFull | BatchTooLarge:
        """Of a batch that is too much: for now, or for ever."""
        if events > self._max_events:
            return BatchTooLarge(Bound.EVENTS, self._max_events)
        if size_bytes > self._max_bytes:
            return BatchTooLarge(Bound.BYTES, self._max_bytes)
        return BacklogFull(self._time_for_s(self._max_events * _SHARE_TO_DRAIN))

    def count(self, events: int, size_bytes: int) -> None:
        self._events += events
        self._bytes += size_bytes

    def finished(self, sizes: Iterable[int]) -> None:
        """Events of these sizes are settled for good."""
        events = 0
        for size in sizes:
            events += 1
            self._bytes -= size
        self._events -= events
        now = self._monotonic()
        self._finished.append((now, events))
        while self._finished[0][0] < now - _WINDOW_S:
            self._finished.popleft()

    def _time_for_s(self, events: float) -> int:
        """How long so many take at the pace of the last seconds: a true Retry-After."""
        now = self._monotonic()
        recent = sum(count for at, count in self._finished if at > now - _WINDOW_S)
        least, most = _RETRY_AFTER_S
        if not recent:
            return most
        return max(least, min(most, round(events / (recent / _WINDOW_S))))
