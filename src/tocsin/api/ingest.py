"""Parses what a producer sends: one event, or a batch of events, one a line. A batch is valid as a whole or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec import UNSET, UnsetType

from tocsin.api.ids import EventIds
from tocsin.api.problems import Kind, RequestError, Violation
from tocsin.domain.events import MESSAGES, Event, EventError, EventId, parse_event
from tocsin.providers.rules import RuleBook
from tocsin.settings import Settings

MOST_VIOLATIONS: Final = 20
"""So many violations of a batch are listed."""
_LINES_A_TURN: Final = 500
_BYTES_A_TURN: Final = 256 * 1024
"""So many lines, of so many bytes in all, are parsed before other requests are served: about two milliseconds."""


class Batch:
    """The events of one request: those to be appended, the id of each line, and the violations."""

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
            RequestError: two lines have the same `event_id` and other content.
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
                    raise self.conflict(UNSET if first is UNSET else first + index)
                ids.append(id)
                continue
            events.append(Event(id, parsed.owner, message, now_ms, expires_ms[message], body))
            ids.append(id)

    def conflict(self, line: int | UnsetType) -> RequestError:
        """The error for an `event_id` that was used for another event, in this request or before."""
        reason = "was used before for an event with other content"
        return RequestError(
            Kind.CONFLICT, f"{_where(line)}$.event_id: {reason}", Violation(at="$.event_id", line=line, reason=reason)
        )

    def line_of(self, index: int) -> int:
        """The line (from 1) that first named the event that is to be appended at `index`."""
        return self.ids.index(self.events[index].id) + 1


class Ingest:
    """Makes a `Batch` of a request's body: gives the events their ids, times and lifetimes."""

    def __init__(self, settings: Settings, rules: RuleBook) -> None:
        self._rules = rules
        self._max_events = settings.ingest.max_events
        self._lifetimes_ms = {
            message: int(settings.delivery.lifetime(message).total_seconds() * 1000) for message in MESSAGES
        }
        self._ids = EventIds()

    def one(self, body: bytes, now_ms: int) -> Batch:
        """One event, as a batch of one.

        Raises:
            RequestError: it breaks the schema.
        """
        batch = self._batch(now_ms)
        batch.read((body,), self._ids.take(1, now_ms), UNSET)
        if batch.violations:
            raise invalid(batch.violations)
        return batch

    async def many(self, body: bytes, now_ms: int) -> Batch:
        """A batch of events, one a line.

        Raises:
            RequestError: there are no events or too many, one breaks the schema, or two contradict each other (`read`).
        """
        lines = self._lines(body)
        ids = self._ids.take(len(lines), now_ms)
        batch = self._batch(now_ms)
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

    def _batch(self, now_ms: int) -> Batch:
        return Batch(
            self._rules, now_ms, {message: now_ms + lifetime for message, lifetime in self._lifetimes_ms.items()}
        )

    def _lines(self, body: bytes) -> list[bytes]:
        # Counted before it is split: a body of line ends only would make a list of millions.
        if body.count(b"\n") > self._max_events:
            raise self._too_many()
        if not body or body.isspace():
            raise invalid([Violation(at="$", line=1, reason="no events")])
        lines = body.split(b"\n")
        if not lines[-1].strip():
            del lines[-1]
        if len(lines) > self._max_events:
            raise self._too_many()
        return lines

    def _too_many(self) -> RequestError:
        return RequestError(Kind.TOO_LARGE, f"The batch has more than {self._max_events} lines.")


def invalid(violations: list[Violation]) -> RequestError:
    """The error for events that break the schema; `detail` names the first violation."""
    first = violations[0]
    return RequestError(Kind.WRONG_SYNTAX, f"{_where(first.line)}{first.at}: {first.reason}", *violations)


def _violation(error: EventError, line: bytes, number: int | UnsetType) -> Violation:
    if number is not UNSET and not line.strip():
        return Violation(at="$", line=number, reason="blank line")
    return Violation(at=error.at, line=number, reason=error.reason)


def _where(line: int | UnsetType) -> str:
    return "" if line is UNSET else f"line {line}: "
