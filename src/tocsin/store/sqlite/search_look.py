"""Looks for events in the index of the search, newest first, for as long as it may, and has the records decide.

A part whose shapes cannot match is passed over. In a part, the index of owners leads to a user's events, the index of
rare shapes to what was not delivered, and the rest is read in order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import Any, Final

import msgspec

from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.records import Attempt, EventRecord, Parked, State
from tocsin.store.search_page import CHUNK, END, MOST_FRESH, SLACK_MS, Page
from tocsin.store.search_shapes import owner_key, wanted
from tocsin.store.sqlite.search_index import PARKED, PART_EVENTS, Part, decode_parked, parts_of, shapes_of

_MOST_RARE: Final = 40
"""Of more shapes than that, a part is read in order."""

_OF_OWNERS: Final = (
    "SELECT json_group_array(seq) FROM (SELECT seq FROM seen_{n} {indexed} WHERE owner IN"
    " (SELECT value FROM json_each(?)) AND seq < ? AND seq >= ? ORDER BY seq DESC LIMIT ?)"
)
_RARE: Final = (
    "SELECT json_group_array(seq) FROM (SELECT seq FROM seen_{n} INDEXED BY seen_{n}_rare WHERE shape = ? AND shape > 0"
    " AND seq < ? AND seq >= ? ORDER BY seq DESC LIMIT ?)"
)
_IN_ORDER: Final = (
    "SELECT json_group_array(seq) FROM (SELECT seq FROM seen_{n} WHERE shape IN (SELECT value FROM json_each(?))"
    " AND seq < ? AND seq >= ? ORDER BY seq DESC LIMIT ?)"
)
_RECORD: Final = (
    """'[' || seq || ',"' || id || '","' || owner || '",' || json_quote(message) || ',' || accepted_ms || ','"""
    """ || expires_ms || ',' || state || ',' || round || ',[' || coalesce(attempts, '') || ']]'"""
)
_EVENTS: Final = (
    f"SELECT group_concat({_RECORD}) FROM store.event WHERE seq IN (SELECT value FROM json_each(?)) AND message <> ''"
)
_FRESH: Final = (
    f"SELECT group_concat({_RECORD}) FROM"
    " (SELECT seq, id, owner, message, accepted_ms, expires_ms, state, round, attempts"
    f" FROM store.event INDEXED BY event_fresh WHERE state = {int(State.ACCEPTED)} AND urgent = ?"
    f" ORDER BY seq DESC LIMIT {MOST_FRESH})"
)
_ACCEPTED_FROM: Final = "SELECT seq, accepted_ms FROM store.event WHERE seq >= ? ORDER BY seq LIMIT 1"
_NEWEST: Final = "SELECT coalesce(max(seq), 0) FROM store.event"

_Row = tuple[int, str, str, str, int, int, int, int, list[Attempt]]
_decode_rows = msgspec.json.Decoder(list[_Row]).decode
_decode_seqs = msgspec.json.Decoder(list[int]).decode
_encode = msgspec.json.Encoder().encode


class Look:
    """Looks for one page. `is_over` says when the time for it has ended."""

    def __init__(self, driver: sqlite3.Connection, page: Page, is_over: Callable[[], bool]) -> None:
        self._driver = driver
        self._page = page
        self._query = page.query
        self._is_over = is_over

    def look(self) -> None:
        page = self._page
        if page.wants_fresh:
            self._fresh()
        for seqs, below in self._candidates():
            for seq, record in self._records(seqs):
                if page.is_full:
                    self._stop(seq + 1, complete=True)
                    return
                page.take(record)
            if below and self._is_over():
                self._stop(below, complete=False)
                return

    def _stop(self, below: int, *, complete: bool) -> None:
        oldest = self._driver.execute(_ACCEPTED_FROM, (below,)).fetchone()
        self._page.stop(below, None if oldest is None else oldest[1], complete=complete)

    def _fresh(self) -> None:
        """What nobody has tried yet stands in the store alone."""
        fresh = [row for urgent in (0, 1) for row in self._rows(_FRESH, urgent)]
        for _, record in sorted(fresh, key=lambda row: row[0], reverse=True):
            if not self._page.is_full:
                self._page.take(record)

    def _candidates(self) -> Iterator[tuple[list[int], int]]:
        """Numbers of events that may match, newest first, some at a time, and below which number it goes on; 0 where it
        does not."""
        lowest, highest = self._bounds()
        shapes = wanted(shapes_of(self._driver), self._query)
        for part in parts_of(self._driver):
            n, there = part.n, shapes.intersection(part.shapes)
            below = min(self._page.below, highest, (n + 1) * PART_EVENTS)
            if not there or below <= max(lowest, n * PART_EVENTS):
                continue
            while chunk := self._chunk(part, there, below, lowest):
                below = chunk[-1]
                yield chunk, below
            yield [], n * PART_EVENTS

    def _chunk(self, part: Part, shapes: set[int], below: int, lowest: int) -> list[int]:
        n, owners = part.n, self._query.owners
        if owners is not None:
            keys = _encode([owner_key(owner) for owner in owners]).decode()
            # The newest part is read through: it fits the cache.
            indexed = f"INDEXED BY seen_{n}_owner" if part.by_owner else "NOT INDEXED"
            return self._seqs(_OF_OWNERS.format(n=n, indexed=indexed), keys, below, lowest)
        if len(shapes) <= _MOST_RARE and all(shape > 0 for shape in shapes):
            each = [self._seqs(_RARE.format(n=n), shape, below, lowest) for shape in shapes]
            return list(merge(*each, reverse=True))[:CHUNK]
        return self._seqs(_IN_ORDER.format(n=n), _encode(sorted(shapes)).decode(), below, lowest)

    def _seqs(self, statement: str, key: Any, below: int, lowest: int) -> list[int]:
        (text,) = self._driver.execute(statement, (key, below, lowest, CHUNK)).fetchone()
        return _decode_seqs(text)

    def _bounds(self) -> tuple[int, int]:
        """Between which numbers the events lie that were accepted in the time asked for."""
        query = self._query
        lowest = 0 if query.from_ms is None else self._first_from(query.from_ms - SLACK_MS)
        highest = END if query.until_ms is None else self._first_from(query.until_ms + SLACK_MS)
        return lowest, highest

    def _first_from(self, at_ms: int) -> int:
        """The first number from which on events were accepted at `at_ms` or later."""
        (high,) = self._driver.execute(_NEWEST).fetchone()
        low, high = 0, high + 1
        while low < high:
            middle = (low + high) // 2
            row = self._driver.execute(_ACCEPTED_FROM, (middle,)).fetchone()
            if row is None or row[1] >= at_ms:
                high = middle
            else:
                low = row[0] + 1
        return low

    def _records(self, seqs: Sequence[int]) -> list[tuple[int, EventRecord]]:
        """The events of these numbers that are still there, in the same order."""
        if not seqs:
            return []
        found = self._rows(_EVENTS, _encode(seqs).decode())
        return sorted(found, key=lambda row: row[0], reverse=True)

    def _rows(self, statement: str, value: Any) -> list[tuple[int, EventRecord]]:
        (text,) = self._driver.execute(statement, (value,)).fetchone()
        rows = _decode_rows(f"[{text or ''}]")
        waiting = [row[0] for row in rows if row[6] == State.DELIVERING]
        parked: dict[int, list[Parked]] = {}
        if waiting:
            (parked_text,) = self._driver.execute(PARKED, (_encode(waiting).decode(),)).fetchone()
            for seq, one in decode_parked(parked_text):
                parked.setdefault(seq, []).append(one)
        return [
            (
                seq,
                EventRecord(
                    Event(EventId(id), UserId(owner), message, accepted, expires, b""),
                    State(state),
                    attempts,
                    parked.get(seq, []),
                    round,
                ),
            )
            for seq, id, owner, message, accepted, expires, state, round, attempts in rows
        ]
