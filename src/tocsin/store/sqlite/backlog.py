"""How much waits, its bound, and how fast it drains: so when a producer that found it full should try again."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from tocsin.store.ports import BacklogFull, BatchTooLarge
from tocsin.store.records import Backlog, Bound
from tocsin.store.sqlite.database import Database

_WINDOW_S: Final = 10.0
_RETRY_AFTER_S: Final = (1, 300)
_SHARE_TO_DRAIN: Final = 0.1
"""A producer is asked to try again when about this share of the bound is free."""


class BacklogBound:
    """Counts events and bytes that are accepted and not settled for good."""

    def __init__(self, database: Database, max_events: int, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._events = 0
        self._bytes = 0
        self.is_followed = False
        """Whether every change is counted here: in the server. A command measures before it appends."""
        self._finished: deque[tuple[float, int]] = deque()
        self._uncounted: list[tuple[int, int]] = []
        """The first and last numbers of events that another process has appended and nobody has counted yet."""

    def start(self, events: int, size_bytes: int) -> None:
        self._events, self._bytes, self.is_followed = events, size_bytes, True

    async def measure(self, events: int, size_bytes: int) -> None:
        """Look into the file for what waits in it: closely only where so much more might be too much.

        Raises:
            StoreUnavailable: it cannot be read.
        """

        def measure(driver: sqlite3.Connection) -> tuple[int, int]:
            most_events, most_bytes = _at_most(driver)
            if most_events + events <= self._max_events and most_bytes + size_bytes <= self._max_bytes:
                return most_events, most_bytes
            return count_waiting(driver)

        self._events, self._bytes = await self._database.read(measure)

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

    def appended_elsewhere(self, first: int, last: int) -> None:
        """Another process has appended events under these numbers."""
        self._uncounted.append((first, last))

    async def count_appended_elsewhere(self) -> None:
        """Raises StoreUnavailable; they are counted the next time."""
        ranges, self._uncounted = self._uncounted, []
        if not ranges:
            return
        try:
            events, size = await self._database.read(lambda driver: _count(driver, ranges))
        except BaseException:
            self._uncounted += ranges
            raise
        self.count(events, size)

    def _time_for_s(self, events: float) -> int:
        """How long so many take at the pace of the last seconds: a true Retry-After."""
        now = self._monotonic()
        recent = sum(count for at, count in self._finished if at > now - _WINDOW_S)
        least, most = _RETRY_AFTER_S
        if not recent:
            return most
        return max(least, min(most, round(events / (recent / _WINDOW_S))))


def count_waiting(driver: sqlite3.Connection) -> tuple[int, int]:
    """How many events are accepted and not settled for good, and their size."""
    fresh, fresh_size = driver.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM event INDEXED BY event_fresh WHERE state = 0"
    ).fetchone()
    waiting, waiting_size = driver.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM event WHERE seq IN (SELECT DISTINCT seq FROM parked)"
    ).fetchone()
    return fresh + waiting, fresh_size + waiting_size


def _at_most(driver: sqlite3.Connection) -> tuple[int, int]:
    """No fewer events and bytes than wait, found without reading them: all that were numbered, and the whole file."""
    (events,) = driver.execute(
        "SELECT coalesce((SELECT max(seq) FROM event) - (SELECT min(seq) FROM event) + 1, 0)"
    ).fetchone()
    (pages,) = driver.execute("PRAGMA page_count").fetchone()
    (page_size,) = driver.execute("PRAGMA page_size").fetchone()
    return events, pages * page_size


def _count(driver: sqlite3.Connection, ranges: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """How many events were appended under these numbers, and their size; whatever has become of them since."""
    events = size = 0
    for first, last in ranges:
        more, more_size = driver.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM event WHERE seq BETWEEN ? AND ?", (first, last)
        ).fetchone()
        events, size = events + more, size + more_size
    return events, size
