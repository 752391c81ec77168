"""How much waits in the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from tocsin.store.backlog import BacklogBound
from tocsin.store.sqlite.database import Database


class FileBacklog(BacklogBound):
    """See `BacklogBound`; counts in the file what other processes append."""

    def __init__(self, database: Database, max_events: int, max_bytes: int, monotonic: Callable[[], float]) -> None:
        super().__init__(max_events, max_bytes, monotonic)
        self._database = database
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
