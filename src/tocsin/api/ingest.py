"""Reads what a producer hands in: one event, or a batch with one a line, all of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec import UNSET, UnsetType

from tocsin.api.ids import EventIds
from tocsin.api.problems import Fault, Kind, RequestError
from tocsin.domain.events import MESSAGES, Event, EventError, EventId, HandedIn, parse_event
from tocsin.settings import Settings
from tocsin.store.ports import NewEvent

MOST_FAULTS_TOLD: Final = 20
_LINES_A_TURN: Final = 500
"""Lines parsed before other requests get their turn: about two milliseconds."""


class Batch:
    """Events on their way in: what is to be appended, the id of each line, and what is wrong with them."""

    def __init__(self, now_ms: int, expires_ms: dict[str, int]) -> None:
        self.events: list[NewEvent] = []
        self.ids: list[EventId] = []
        self.faults: list[Fault] = []
        self._now_ms = now_ms
        self._expires_ms = expires_ms
        self._digests: dict[EventId, str] = {}

    def read(self, lines: Sequence[bytes], made: Sequence[EventId], first: int | UnsetType) -> None:
        """Take in some lines. `made` has an id for each; `first` is the first one's number, unset for a lone event.

        Raises:
            RequestError: two lines contradict each other.
        """
        events, ids, now_ms, expires_ms = self.events, self.ids, self._now_ms, self._expires_ms
        for index, line in enumerate(lines):
            try:
                handed_in = parse_event(line)
            except (EventError, RecursionError) as error:
                self.faults.append(_fault(error, line, UNSET if first is UNSET else first + index))
                continue
            if handed_in.event_id is None:
                id, message = made[index], handed_in.message
                event = Event(id, handed_in.owner, message, now_ms, expires_ms[message], handed_in.body)
                events.append(NewEvent(event))
                ids.append(id)
            else:
                self._take(handed_in.event_id, handed_in, UNSET if first is UNSET else first + index)

    def _take(self, id: EventId, handed_in: HandedIn, line: int | UnsetType) -> None:
        """An event whose id the producer chose: another line with the same content is answered, and delivered once."""
        body, message = handed_in.body, handed_in.message
        own = handed_in.digest
        assert own is not None
        before = self._digests.get(id)
        if before is None:
            self._digests[id] = own
            event = Event(id, handed_in.owner, message, self._now_ms, self._expires_ms[message], body)
            self.events.append(NewEvent(event, own))
        elif before != own:
            raise self.conflict(line)
        self.ids.append(id)

    def conflict(self, line: int | UnsetType) -> RequestError:
        """An `event_id` that was used for another event, here or before."""
        reason = "was used before for an event with other content"
        return RequestError(
            Kind.CONFLICT, f"{_where(line)}$.event_id: {reason}", Fault(at="$.event_id", line=line, reason=reason)
        )

    def line_of(self, index: int) -> int:
        """The line (from 1) that first named the event that is to be appended at `index`."""
        return self.ids.index(self.events[index].event.id) + 1


class Intake:
    """Makes batches of bodies: gives ids, times and lifetimes."""

    def __init__(self, settings: Settings) -> None:
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
        if batch.faults:
            raise invalid(batch.faults)
        return batch

    async def many(self, body: bytes, now_ms: int) -> Batch:
        """A batch of events, one a line.

        Raises:
            RequestError: there are none or too many, one breaks the schema, or two contradict each other.
        """
        lines = self._lines(body)
        ids = self._ids.take(len(lines), now_ms)
        batch = self._batch(now_ms)
        for start in range(0, len(lines), _LINES_A_TURN):
            if start:
                await asyncio.sleep(0)
            end = start + _LINES_A_TURN
            batch.read(lines[start:end], ids[start:end], start + 1)
            if len(batch.faults) >= MOST_FAULTS_TOLD:
                break
        if batch.faults:
            raise invalid(batch.faults[:MOST_FAULTS_TOLD])
        return batch

    def _batch(self, now_ms: int) -> Batch:
        return Batch(now_ms, {message: now_ms + lifetime for message, lifetime in self._lifetimes_ms.items()})

    def _lines(self, body: bytes) -> list[bytes]:
        # Counted first: a body of nothing but line ends would make a list of millions.
        if body.count(b"\n") > self._max_events:
            raise self._too_many()
        if not body or body.isspace():
            raise invalid([Fault(at="$", line=1, reason="no events")])
        lines = body.split(b"\n")
        if not lines[-1].strip():
            del lines[-1]
        if len(lines) > self._max_events:
            raise self._too_many()
        return lines

    def _too_many(self) -> RequestError:
        return RequestError(Kind.TOO_LARGE, f"The batch has more than {self._max_events} lines.")


def invalid(faults: list[Fault]) -> RequestError:
    """The events break the schema; the first fault is told in the detail as well."""
    first = faults[0]
    return RequestError(Kind.WRONG_SYNTAX, f"{_where(first.line)}{first.at}: {first.reason}", *faults)


def _fault(error: EventError | RecursionError, line: bytes, number: int | UnsetType) -> Fault:
    if number is not UNSET and not line.strip():
        return Fault(at="$", line=number, reason="blank line")
    if isinstance(error, RecursionError):
        return Fault(at="$", line=number, reason="nested too deeply")
    return Fault(at=error.at, line=number, reason=error.reason)


def _where(line: int | UnsetType) -> str:
    return "" if line is UNSET else f"line {line}: "
