"""Parses what a producer sends: one event, or a batch of events, one a line. A batch is valid as a whole or refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from tocsin.domain.events import MESSAGES, Event, EventError, EventId, parse_event
from tocsin.ingest.errors import Violation, conflict, invalid, too_many_lines
from tocsin.ingest.ids import EventIds
from tocsin.providers.rules import RuleBook
from tocsin.settings import Settings

MOST_VIOLATIONS: Final = 20
"""So many violations of a batch are listed."""
_LINES_A_TURN: Final = 500
_BYTES_A_TURN: Final = 256 * 1024
"""So many lines, of so many bytes in all, are parsed before other requests are served: about two milliseconds."""


class Origin(Struct, frozen=True):
    """What a batch's transport says of its events: a message of a bus that comes again is the same events."""

    since_ms: int
    """When the producer gave it to the transport, Unix milliseconds: lifetimes begin then."""
    ids: Callable[[int], Sequence[EventId]]
    """That many ids, one for each line without an id of its own: the same ones each time."""


class Batch:
    """The events of one request or message: those to be appended, the id of each line, and the violations."""

    def __init__(self, rules: RuleBook, now_ms: int, expires_ms: dict[str, int]) -> None:
        self._check = rules.check_event
        self.events: list[Event] = []
        self.ids: list[EventId] = []
        self.violations: list[Violation] = []
        self._now_ms = now_ms
        self._expires_ms = expires_ms
        self._chosen: dict[EventId, bytes] = {}
        """The body of each event whose id the producer chose."""

    def read(self, lines: Sequence[bytes], made: Sequence[EventId], first: int | UnsetType) -> None:
        """Parse some lines, up to the last violation that is listed. `made` has an id for each; `first` is the first
        line's number, unset for a single event.

        Raises:
            IngestError: two lines have the same `event_id` and other content.
        """
        events, ids, now_ms, expires_ms, check = self.events, self.ids, self._now_ms, self._expires_ms, self._check
        for index, line in enumerate(lines):
            try:
                parsed = parse_event(line)
                body = check(parsed)
            except EventError as error:
                self.violations.append(_violation(error, line, UNSET if first is UNSET else first + index))
                if len(self.violations) >= MOST_VIOLATIONS:
                    return
                continue
            message, id = parsed.message, parsed.event_id
            if id is None:
                id = made[index]
            elif (before := self._chosen.setdefault(id, body)) is not body:
                # The same event on another line: it has its id in the answer, and is delivered once.
                if before != body:
                    raise conflict(UNSET if first is UNSET else first + index)
                ids.append(id)
                continue
            events.append(Event(id, parsed.owner, message, now_ms, expires_ms[message], body))
            ids.append(id)

    def line_of(self, index: int) -> int:
        """The line (from 1) that first named the event that is to be appended at `index`."""
        return self.ids.index(self.events[index].id) + 1


class Ingest:
    """Makes a `Batch` of a request's body: gives the events their ids, times and lifetimes. `randbytes` is what the ids
    are made with."""

    def __init__(self, settings: Settings, rules: RuleBook, randbytes: Callable[[int], bytes] = os.urandom) -> None:
        self._rules = rules
        self._max_events = settings.ingest.max_events
        self._lifetimes_ms = {
            message: int(settings.delivery.lifetime(message).total_seconds() * 1000) for message in MESSAGES
        }
        self._ids = EventIds(randbytes)

    def one(self, body: bytes, now_ms: int, origin: Origin | None = None) -> Batch:
        """One event, as a batch of one. Without an `origin` it begins now, and gets an id that nobody has had.

        Raises:
            IngestError: it breaks the schema.
        """
        batch = self._batch(now_ms, origin)
        batch.read((body,), self._new_ids(1, now_ms, origin), UNSET)
        if batch.violations:
            raise invalid(batch.violations)
        return batch

    async def many(self, body: bytes, now_ms: int, origin: Origin | None = None) -> Batch:
        """A batch of events, one a line; see `one`.

        Raises:
            IngestError: there are no events or too many, one breaks the schema, or two contradict each other (`read`).
        """
        lines = self._lines(body)
        ids = self._new_ids(len(lines), now_ms, origin)
        batch = self._batch(now_ms, origin)
        lines_a_turn = max(1, min(_LINES_A_TURN, _BYTES_A_TURN // max(map(len, lines))))
        for start in range(0, len(lines), lines_a_turn):
            if start:
                await asyncio.sleep(0)
            end = start + lines_a_turn
            batch.read(lines[start:end], ids[start:end], start + 1)
            if len(batch.violations) >= MOST_VIOLATIONS:
                break
        if batch.violations:
            raise invalid(batch.violations)
        return batch

    def _batch(self, now_ms: int, origin: Origin | None) -> Batch:
        since_ms = now_ms if origin is None else origin.since_ms
        return Batch(
            self._rules, now_ms, {message: since_ms + lifetime for message, lifetime in self._lifetimes_ms.items()}
        )

    def _new_ids(self, count: int, now_ms: int, origin: Origin | None) -> Sequence[EventId]:
        return self._ids.take(count, now_ms) if origin is None else origin.ids(count)

    def _lines(self, body: bytes) -> list[bytes]:
        # Counted before it is split: a body of line ends only would make a list of millions.
        if body.count(b"\n") > self._max_events:
            raise too_many_lines(self._max_events)
        if not body or body.isspace():
            raise invalid([Violation(at="$", line=1, reason="no events")])
        lines = body.split(b"\n")
        if not lines[-1].strip():
            del lines[-1]
        if len(lines) > self._max_events:
            raise too_many_lines(self._max_events)
        return lines


def _violation(error: EventError, line: bytes, number: int | UnsetType) -> Violation:
    if number is not UNSET and not line.strip():
        return Violation(at="$", line=number, reason="blank line")
    return Violation(at=error.at, line=number, reason=error.reason)
