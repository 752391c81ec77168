"""Why events are refused: the same for a request over HTTP and for a message of a bus.

No text here quotes the content of an event.
"""

from __future__ import annotations

from enum import Enum

from msgspec import UNSET, Struct, UnsetType

from tocsin.store.ports import BatchTooLarge


class Why(Enum):
    """(HTTP status, problem type, title), as `api.problems.Kind` has them."""

    BAD_INPUT = (400, "bad-input", "Bad input")
    CONFLICT = (409, "event-id-conflict", "Conflict")
    TOO_LARGE = (413, "too-large", "Too large")

    def __init__(self, status: int, slug: str, title: str) -> None:
        self.status = status
        self.slug = slug
        self.title = title


class Violation(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One rule that the input breaks: where (a JSON path, or a parameter), on which line of a batch, and which."""

    at: str
    line: int | UnsetType = UNSET
    reason: str


class IngestError(Exception):
    """These events are refused, and to send the same again will not help."""

    def __init__(self, why: Why, detail: str, *violations: Violation) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail
        self.violations = violations


def invalid(violations: list[Violation]) -> IngestError:
    """Events break the schema; `detail` names the first violation."""
    first = violations[0]
    return IngestError(Why.BAD_INPUT, f"{where(first.line)}{first.at}: {first.reason}", *violations)


def conflict(line: int | UnsetType) -> IngestError:
    """An `event_id` was used for another event, in this batch or before."""
    reason = "was used before for an event with other content"
    violation = Violation(at="$.event_id", line=line, reason=reason)
    return IngestError(Why.CONFLICT, f"{where(line)}$.event_id: {reason}", violation)


def too_many_lines(most: int) -> IngestError:
    return IngestError(Why.TOO_LARGE, f"The batch has more than {most} lines.")


def too_many_bytes(most: int) -> IngestError:
    return IngestError(Why.TOO_LARGE, f"The body is larger than {most} bytes.")


def larger_than_the_backlog(error: BatchTooLarge) -> IngestError:
    return IngestError(
        Why.TOO_LARGE,
        f"There are more {error.bound} than the backlog may hold in all"
        f" (store.max_backlog_{error.bound} is {error.most}); nothing was accepted. Send smaller batches.",
    )


def where(line: int | UnsetType) -> str:
    return "" if line is UNSET else f"line {line}: "
