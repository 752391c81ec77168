"""What the index of the search has to look at: which events something has happened to, since it looked last.

One small row for each transaction, in that transaction: so the feed has all that is on record, and nothing else. The
newest row is never deleted, so that no number is given out twice.

What this process has settled itself it need not read again: for a while it is kept in memory (`Recent`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from tocsin.store.records import Attempt, Settlement
from tocsin.store.sqlite.leases import FileLease

_NOTE: Final = "INSERT INTO search_feed(seqs, count, at_ms) VALUES (?, ?, ?)"
_FORGET: Final = "DELETE FROM search_feed WHERE id <= ? AND id < (SELECT max(id) FROM search_feed)"


def note(driver: sqlite3.Connection, seqs: Collection[int], now_ms: int) -> int | None:
    """Something has happened to the events of these numbers; returns the row's number, None where there is none."""
    if not seqs:
        return None
    return driver.execute(_NOTE, (",".join(map(str, seqs)), len(seqs), now_ms)).lastrowid


def forget(driver: sqlite3.Connection, position: int) -> None:
    """The index has looked at this row, and at all before it."""
    driver.execute(_FORGET, (position,))


def clear(driver: sqlite3.Connection) -> None:
    """There is no index that would look at it."""
    driver.execute("DELETE FROM search_feed")


Seen = tuple[int, str, str, int, Sequence[Attempt]]
"""An event's number, owner, message and acceptance, and all of its attempts."""
_MOST_EVENTS: Final = 20_000


class Recent:
    """Events that were settled for good at once, by the feed's row that names them. Written by the event loop, and read
    by the thread that fills the index: each step is one operation on the dict."""

    def __init__(self) -> None:
        self._batches: dict[int, list[Seen]] = {}

    def settled(self, id: int, settlements: Sequence[Settlement], leases: Sequence[FileLease]) -> None:
        """These are on record now, and the feed's row `id` names them."""
        if sum(map(len, list(self._batches.values()))) < _MOST_EVENTS:
            self._batches[id] = [
                (lease.seq, (event := one.item.event).owner, event.message, event.accepted_ms, one.attempts)
                for one, lease in zip(settlements, leases, strict=True)
                if lease.parked_id is None and not one.parked
            ]

    def take(self, id: int) -> list[Seen]:
        """All that is known of the events that this row names."""
        return self._batches.pop(id, [])

    def forget(self, position: int) -> None:
        """The rows up to this one were looked at."""
        for id in list(self._batches):
            if id <= position:
                self._batches.pop(id, None)
