"""The fresh events of one urgency, in order of acceptance: a cursor over the table, and what follows it in memory.

The tail is always a gapless continuation of the cursor. Whatever may break that (too much of it, an event that another
process appended) ends the tail, and what comes after it is read from the table.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from tocsin.domain.events import Event

_TAIL_EVENTS: Final = 20_000
_TAIL_BYTES: Final = 32 * 1024 * 1024


class Fresh:
    def __init__(self, urgent: int) -> None:
        self.urgent = urgent
        self.cursor = 0
        self.caught_up = False
        self._newest = 0
        self._tail: deque[tuple[int, Event]] = deque()
        self._tail_bytes = 0

    def start(self, cursor: int) -> None:
        """Everything fresh comes after `cursor`, in the table."""
        self.cursor = self._newest = cursor
        self.caught_up = False
        self._tail.clear()
        self._tail_bytes = 0

    def committed(self, events: list[tuple[int, Event]]) -> None:
        """What was appended just now, in order."""
        if not events:
            return
        self._newest = max(self._newest, events[-1][0])
        if not self.caught_up:
            return
        if events[0][0] <= self.cursor:
            # The table was read faster than the commit was told of.
            events = [pair for pair in events if pair[0] > self.cursor]
        if len(self._tail) < _TAIL_EVENTS and self._tail_bytes < _TAIL_BYTES:
            self._tail.extend(events)
            self._tail_bytes += sum([len(event.body) for _, event in events])
        else:
            self.caught_up = False

    def look_again(self) -> None:
        """There is something in the table that was not handed on."""
        self.caught_up = False

    @property
    def may_have_more(self) -> bool:
        return bool(self._tail) or not self.caught_up

    def take(self, limit: int) -> list[tuple[int, Event]]:
        """What follows in memory, up to `limit`."""
        tail = self._tail
        if limit < len(tail):
            taken = [tail.popleft() for _ in range(limit)]
            self._tail_bytes -= sum([len(event.body) for _, event in taken])
        else:
            taken = list(tail)
            tail.clear()
            self._tail_bytes = 0
        if taken:
            self.cursor = taken[-1][0]
        return taken

    def read(self, found: list[tuple[int, Event]], *, more: bool) -> None:
        """Account for what the table gave after the cursor, and whether it may have more."""
        if found:
            self.cursor = max(self.cursor, found[-1][0])
        self._newest = max(self._newest, self.cursor)
        # What was committed while it was read has made `newest` newer than the cursor.
        if not more and self._newest == self.cursor:
            self.caught_up = True
