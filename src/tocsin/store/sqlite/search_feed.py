"""What the index of the search has to look at: which events something has happened to, since it looked last.

One small row for each transaction, in that transaction: so the feed has all that is on record, and nothing else. The
newest row is never deleted, so that no number is given out twice.

What this process has settled itself it need not read again: for a while it is kept in memory (`Recent`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from tocsin.store.records import Attempt, Settlement
from tocsin.store.search_shapes import Alike, alike, owner_key
from tocsin.store.sqlite.leases import FileLease

_NOTE: Final = "INSERT INTO search_feed(seqs, count, at_ms) VALUES (?, ?, ?)"
_FORGET: Final = "DELETE FROM search_feed WHERE id <= ? AND id < (SELECT max(id) FROM search_feed)"

_encode: Final = msgspec.json.Encoder().encode


def note(driver: sqlite3.Connection, seqs: Collection[int], now_ms: int) -> int | None:
    """Something has happened to the events of these numbers; returns the row's number, None where there is none."""
    if not seqs:
        return None
    text = _encode(seqs)[1:-1].decode()
    return driver.execute(_NOTE, (text, len(seqs), now_ms)).lastrowid


def forget(driver: sqlite3.Connection, position: int) -> None:
    """The index has looked at this row, and at all before it."""
    driver.execute(_FORGET, (position,))


def clear(driver: sqlite3.Connection) -> None:
    """There is no index that would look at it."""
    driver.execute("DELETE FROM search_feed")


Seen = tuple[int, str, str, int, Sequence[Attempt]]
"""An event's number, owner, message and acceptance, and all of its attempts."""
_MOST_EVENTS: Final = 20_000


class Batch(Struct, frozen=True, gc=False):
    """Events that one row of the feed names, and for which nothing waits."""

    values: list[int]
    """For each event whose shape has a number: its own number, its owner's key, and the shape's number."""
    others: list[Seen]

    def __len__(self) -> int:
        return len(self.values) // 3 + len(self.others)


_NONE: Final = Batch([], [])


class _Kept:
    """Batches by the feed's row, made with these numbers of shapes."""

    def __init__(self, numbers: Mapping[Alike, int]) -> None:
        self.numbers = numbers
        self.batches: dict[int, Batch] = {}
        self.put = 0
        self.taken = 0
        """Events. One thread counts each of the two."""


class Recent:
    """Events that were settled for good at once, as the index is to have them. Made by the store's writer, which has
    just read them, kept by the event loop, and taken by the thread that fills the index: each step is one operation on
    a dict."""

    def __init__(self) -> None:
        self._kept = _Kept({})

    def begin(self, numbers: Mapping[Alike, int]) -> None:
        """The index numbers its shapes so from now on. What is here was made with other numbers: it is dropped."""
        self._kept = _Kept(numbers)

    def settled(
        self, id: int | None, settlements: Sequence[Settlement], leases: Sequence[FileLease]
    ) -> Callable[[], None]:
        """The feed's row `id` names these. Returns what is to be called when they are on record."""
        kept = self._kept
        if id is None or kept.put - kept.taken >= _MOST_EVENTS:
            return nothing
        known, values, others = kept.numbers.get, list[int](), list[Seen]()
        last: Alike | None = None
        shape: int | None = None
        for one, lease in zip(settlements, leases, strict=True):
            if lease.parked_id is not None or one.parked:
                continue
            event, attempts = one.item.event, one.attempts
            if len(attempts) == 1:
                # Most events have one attempt, like the one before them.
                key = alike(event.message, attempts[0])
                if key != last:
                    last, shape = key, known(key)
                if shape is not None:
                    values += (lease.seq, owner_key(event.owner), shape)
                    continue
            others.append((lease.seq, event.owner, event.message, event.accepted_ms, attempts))
        batch = Batch(values, others)

        def keep() -> None:
            kept.put += len(batch)
            kept.batches[id] = batch

        return keep

    def take(self, id: int) -> Batch:
        """All that is known of the events that this row names."""
        kept = self._kept
        batch = kept.batches.pop(id, _NONE)
        kept.taken += len(batch)
        return batch

    def forget(self, position: int) -> None:
        """The rows up to this one were looked at."""
        for id in list(self._kept.batches):
            if id <= position:
                self.take(id)


def nothing() -> None:
    """Nothing is kept."""
