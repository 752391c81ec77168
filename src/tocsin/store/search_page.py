"""One page of a search: what was found so far, and where the page after it begins. Every store fills it alike: with
records, newest first, until it is full or the time is over."""

from __future__ import annotations

from typing import Final

from tocsin.store.cursors import number_of
from tocsin.store.records import ACCEPTED, Cursor, EventRecord, Finding, Findings, IndexState, Query
from tocsin.store.searching import matching

CHUNK: Final = 200
"""So many records are read at a time."""
MOST_FRESH: Final = 500
"""So many of the newest events that nobody has tried yet are looked at; they are not in the index."""
SLACK_MS: Final = 60_000
"""Events are accepted in order, but for clocks that are set by less than that."""
END: Final = 2**62
"""Above the number of every event."""
OFF: Final = "the search is switched off; set store.search to true, and start the server again"


class Page:
    def __init__(self, query: Query, limit: int, start: Cursor | None) -> None:
        """Raises UnknownCursor: `start` is none."""
        self.query = query
        self._limit = limit
        self.below = END if start is None else number_of(start)
        """It begins with the newest event whose number is lower."""
        self._found: list[Finding] = []
        self._deliveries = 0
        self._next: Cursor | None = None
        self._complete = True
        self._looked_back_to_ms: int | None = None

    @property
    def wants_fresh(self) -> bool:
        """Whether what nobody has tried yet belongs to it: that counts as newer than all the rest."""
        outcomes = self.query.outcomes
        return self.below == END and (outcomes is None or ACCEPTED in outcomes)

    @property
    def is_full(self) -> bool:
        return self._deliveries >= self._limit

    def take(self, record: EventRecord) -> None:
        """Add what is looked for of an event; that is nothing where it does not match."""
        if deliveries := matching(record, self.query):
            self._found.append(Finding(record, deliveries))
            self._deliveries += len(deliveries)

    def stop(self, below: int, looked_back_to_ms: int | None, *, complete: bool) -> None:
        """The next page begins with the newest event below this number."""
        self._next = Cursor(str(below))
        self._looked_back_to_ms = looked_back_to_ms
        self._complete = complete

    def findings(self, state: IndexState) -> Findings:
        return Findings(self._found, self._next, self._complete, self._looked_back_to_ms, state)
