"""What a client does, without any input or output: generators that yield a request or a pause, and are sent the answer.

`client.py` runs them: with asyncio, or with a thread that waits.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar
from uuid import UUID

from tocsin_client.errors import (
    BadInput,
    Conflict,
    NotAllowed,
    NotFound,
    NotSettled,
    TocsinError,
    Unavailable,
    UnexpectedAnswer,
    Violation,
)
from tocsin_client.events import Event
from tocsin_client.ids import new_event_id
from tocsin_client.reports import EventReport, report
from tocsin_client.retrying import REPEATABLE, Patience, retry_after_s

MOST_EVENTS: Final = 5_000
MOST_BYTES: Final = 4 * 1024 * 1024
"""What goes into one request: half of what a server takes by default (`[ingest]`)."""
_PATH: Final = "/api/events"
_FIRST_LOOK_S: Final = 0.05
_LONGEST_LOOK_S: Final = 1.0
_TYPE_PREFIX: Final = "urn:tocsin:problem:"


@dataclass(frozen=True)
class Request:
    """One request; it is answered with an `Answer`."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True)
class Pause:
    """Time to wait; it is answered with None."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What came back, with header names in lower case. Status 0: nothing did, and `error` says why."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


Result = TypeVar("Result")
Call = Generator[Request | Pause, Answer | None, Result]


@dataclass(frozen=True)
class _Line:
    """One event of a call, encoded: where it stands in the call, and its id."""

    index: int
    id: str
    json: bytes


def send(events: Sequence[Event], give_up_after_s: float) -> Call[list[str]]:
    """Hand in events, in as many requests as they need; returns their ids, in their order.

    One request is all or nothing; several are not. An error says in `accepted` what was accepted before.

    Raises:
        TocsinError: see `errors`.
    """
    lines = [_encoded(index, event) for index, event in enumerate(events)]
    accepted: list[str] = []
    waiting = list(_batches(lines))[::-1]
    try:
        while waiting:
            batch = waiting.pop()
            answer = yield from _answered(_ingest(batch), Patience(give_up_after_s))
            if answer.status == 413 and len(batch) > 1:
                # This server takes less at a time than others.
                half = len(batch) // 2
                waiting += [batch[half:], batch[:half]]
                continue
            _check(answer, batch)
            accepted += [line.id for line in batch]
    except Unavailable as error:
        error.accepted, error.ids = tuple(accepted), tuple(line.id for line in lines)
        raise
    except TocsinError as error:
        error.accepted = tuple(accepted)
        raise
    return accepted


def send_each(events: Sequence[Event], give_up_after_s: float) -> Call[list[str | TocsinError]]:
    """Hand in events that have nothing to do with each other: an event that is refused holds up none of the others.

    Returns, for each, its id or why it was not accepted.
    """
    ends: list[str | TocsinError | None] = [None] * len(events)
    # With its id from here on: an event that is handed in again keeps it.
    left = [event if event.event_id else replace(event, event_id=new_event_id()) for event in events]
    open_ = list(range(len(events)))
    while open_:
        try:
            ids = yield from send([left[index] for index in open_], give_up_after_s)
        except TocsinError as error:
            done = len(error.accepted)
            for index, event_id in zip(open_, error.accepted, strict=False):
                ends[index] = event_id
            refused = {item.index for item in error.violations} if isinstance(error, BadInput) else None
            for place, index in list(enumerate(open_))[done:]:
                if refused is None or place in refused:
                    ends[index] = error
        else:
            for index, event_id in zip(open_, ids, strict=True):
                ends[index] = event_id
        open_ = [index for index in open_ if ends[index] is None]
    return [end for end in ends if end is not None]


def look(event_id: UUID | str, give_up_after_s: float) -> Call[EventReport]:
    """What became of an event so far.

    Raises:
        NotFound, NotAllowed, Unavailable, UnexpectedAnswer: see `errors`.
    """
    answer = yield from _answered(Request("GET", f"{_PATH}/{UUID(str(event_id))}"), Patience(give_up_after_s))
    _check(answer, ())
    try:
        return report(json.loads(answer.body))
    except (ValueError, KeyError, TypeError):
        raise UnexpectedAnswer("the answer is not a report of an event", status=answer.status) from None


def wait_settled(event_id: UUID | str, timeout_s: float, give_up_after_s: float) -> Call[EventReport]:
    """Look again and again until every device has its outcome.

    Raises:
        NotSettled: that took longer than `timeout_s`; and what `look` raises.
    """
    patience = Patience(timeout_s, uniform=lambda _, longest: min(max(longest, _FIRST_LOOK_S), _LONGEST_LOOK_S))
    while True:
        found = yield from look(event_id, give_up_after_s)
        if found.settled:
            return found
        pause_s = patience.pause_s()
        if pause_s is None:
            raise NotSettled(f"event {found.event_id} is {found.state} after {timeout_s:g} s")
        yield Pause(pause_s)


def _encoded(index: int, event: Event) -> _Line:
    event_id = str(event.event_id or new_event_id())
    encoded = json.dumps({**event.body(), "event_id": event_id}, ensure_ascii=False, separators=(",", ":"))
    try:
        return _Line(index, event_id, encoded.encode())
    except UnicodeEncodeError:
        reason = "a text is not Unicode (a lone surrogate)"
        raise BadInput(f"event {index}: {reason}", [Violation(index, "$", reason)]) from None


def _batches(lines: Sequence[_Line]) -> Iterator[Sequence[_Line]]:
    batch: list[_Line] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == MOST_EVENTS or size + len(line.json) >= MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.json) + 1
    if batch:
        yield batch


def _ingest(batch: Sequence[_Line]) -> Request:
    if len(batch) == 1:
        return Request("POST", _PATH, batch[0].json, "application/json")
    return Request("POST", _PATH, b"\n".join(line.json for line in batch), "application/x-ndjson")


def _answered(request: Request, patience: Patience) -> Call[Answer]:
    """The answer to a request, which is repeated while that may help and there is time."""
    while True:
        answer = yield request
        assert answer is not None
        if answer.status and answer.status not in REPEATABLE:
            return answer
        pause_s = patience.pause_s(retry_after_s(answer.headers.get("retry-after")))
        if pause_s is None:
            problem = _problem(answer)
            why = answer.error or problem.get("detail") or f"HTTP {answer.status}"
            raise Unavailable(f"tocsin is not available: {why}", status=answer.status, problem=_type_of(problem))
        yield Pause(pause_s)


def _check(answer: Answer, batch: Sequence[_Line]) -> None:
    if 200 <= answer.status < 300:
        return
    problem = _problem(answer)
    text = str(problem.get("detail") or f"HTTP {answer.status}")
    status, kind = answer.status, _type_of(problem)
    match status:
        case 400 | 409 | 413 if batch:
            found = [_violation(item, batch) for item in problem.get("errors", ())]
            found = found or [Violation(batch[0].index, "$", text)]
            error = Conflict if status == 409 else BadInput
            raise error("; ".join(map(str, found)), found, status=status, problem=kind)
        case 401 | 403:
            raise NotAllowed(text, status=status, problem=kind)
        case 404 if kind == _TYPE_PREFIX + "not-found" and not batch:
            raise NotFound(text, status=status, problem=kind)
        case _:
            raise UnexpectedAnswer(text, status=status, problem=kind)


def _violation(found: Mapping[str, Any], batch: Sequence[_Line]) -> Violation:
    line = int(found.get("line", 1))
    return Violation(batch[min(max(line, 1), len(batch)) - 1].index, str(found.get("at", "$")), str(found["reason"]))


def _problem(answer: Answer) -> dict[str, Any]:
    """The problem (RFC 9457) that an answer holds; empty where it holds none."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _type_of(problem: Mapping[str, Any]) -> str:
    return str(problem.get("type", ""))
