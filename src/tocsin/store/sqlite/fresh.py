"""What nobody has tried yet, in order of acceptance: a cursor over the table, and what follows it in memory (the tail).

The tail always continues the cursor without a gap. Whatever may break that (too much of it, an event that another
process appended) ends the tail, and what comes after it is read from the table.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tocsin.domain.events import URGENT, Event
from tocsin.domain.urgency import Turns, reserved
from tocsin.store.records import Item
from tocsin.store.sqlite import claim_sql
from tocsin.store.sqlite.connection import one_instant
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.leases import FileLeases

_TAIL_EVENTS: Final = 20_000
_TAIL_BYTES: Final = 32 * 1024 * 1024


class Fresh:
    """The fresh events of one urgency."""

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
            # The table was read before the commit was answered.
            events = [pair for pair in events if pair[0] > self.cursor]
        if len(self._tail) < _TAIL_EVENTS and self._tail_bytes < _TAIL_BYTES:
            self._tail.extend(events)
            self._tail_bytes += sum([len(event.body) for _, event in events])
        else:
            self.caught_up = False

    def look_again(self) -> None:
        """There is something in the table that is not in the tail."""
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


class FreshEvents:
    """Both urgencies, and the order in which they are given out."""

    def __init__(
        self,
        database: Database,
        leases: FileLeases,
        contents: Contents,
        appended_elsewhere: Callable[[int, int], None],
    ) -> None:
        self._database = database
        self._contents = contents
        self._leases = leases
        self._appended_elsewhere = appended_elsewhere
        """Told the first and the last number of events that another process has appended."""
        self._others, self._urgent = Fresh(0), Fresh(1)
        self._turns = Turns()
        self._newest: int | None = None
        """The newest event's number; None until started, for only a server keeps count."""

    def start(self, cursor: int, newest: int) -> None:
        """Everything fresh comes after `cursor`."""
        self._newest = newest
        for stream in (self._others, self._urgent):
            stream.start(cursor)

    @property
    def may_have_more(self) -> bool:
        return self._others.may_have_more or self._urgent.may_have_more or any(self._leases.again)

    def appended(self, seqs: Sequence[tuple[int, Event]]) -> None:
        """These were appended just now. A gap before them is what another process has appended."""
        if not seqs:
            return
        self.newest_is(seqs[0][0] - 1)
        if self._newest is not None:
            self._newest = seqs[-1][0]
        self._urgent.committed([pair for pair in seqs if pair[1].message in URGENT])
        self._others.committed([pair for pair in seqs if pair[1].message not in URGENT])

    def newest_is(self, newest: int) -> None:
        """What is newer than all that is known of is another process's: it is in the table only."""
        if self._newest is None or newest <= self._newest:
            return
        self._appended_elsewhere(self._newest + 1, newest)
        self._newest = newest
        for stream in (self._others, self._urgent):
            stream.look_again()

    async def claim(self, items: list[Item], limit: int) -> None:
        """Add up to `limit` items. Urgent first, but some room is reserved for the others as long as there are any."""
        turn, kept = self._turns.next(), 0
        if self._leases.again[0] or self._others.may_have_more:
            kept = reserved(limit, turn)
        for stream, most in ((self._urgent, limit - kept), (self._others, limit), (self._urgent, limit)):
            again = self._leases.again[stream.urgent]
            while again and len(items) < most:
                items += self._leases.grant([again.popleft()])
            wanted = most - len(items)
            if wanted > 0 and stream.may_have_more:
                found = await self._read(stream, wanted)
                items += self._leases.grant_fresh(found)

    async def _read(self, stream: Fresh, limit: int) -> list[tuple[int, Event]]:
        taken = stream.take(limit)
        if taken or stream.caught_up:
            return taken

        def read(driver: sqlite3.Connection) -> tuple[list[tuple[int, Event]], bool]:
            with one_instant(driver):
                return claim_sql.fresh(driver, self._contents, stream.urgent, stream.cursor, limit)

        found, more = await self._database.read(read)
        stream.read(found, more=more)
        return found
