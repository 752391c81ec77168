"""What can go wrong when a backend hands in events. Every error says which events were accepted before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """One rule that an event breaks: `index` counts from 0 in the events as they were given to the client."""

    index: int
    at: str
    reason: str

    def __str__(self) -> str:
        return f"event {self.index}: {self.at}: {self.reason}"


class TocsinError(Exception):
    """A call has failed. `accepted` are the ids of the events that were accepted all the same, in their order.

    `status` is the HTTP status, 0 where there was no answer; `problem` is the type that tocsin gives
    (`urn:tocsin:problem:…`), empty where there is none.
    """

    def __init__(self, text: str, *, status: int = 0, problem: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.problem = problem
        self.accepted: tuple[str, ...] = ()


class BadInput(TocsinError):  # noqa: N818 (it says what is so)
    """Events break the schema, or one is too large: correct them. Nothing of their batch was accepted."""

    def __init__(self, text: str, violations: Sequence[Violation], *, status: int = 400, problem: str = "") -> None:
        super().__init__(text, status=status, problem=problem)
        self.violations = tuple(violations)


class Conflict(BadInput):
    """An `event_id` was used before for an event with other content: use another id."""


class NotAllowed(TocsinError):  # noqa: N818
    """The key is not valid, has another role, or is limited to other events."""


class NotFound(TocsinError):  # noqa: N818
    """There is no such event: it was never accepted, or its retention has ended."""


class Unavailable(TocsinError):  # noqa: N818
    """tocsin could not be reached, or could not take the events, until the time to give up.

    Whether the events that are not in `accepted` were taken may be unknown. It is always safe to hand in the same
    events again with the same ids: `ids` has one for each event of the call, in their order.
    """

    def __init__(self, text: str, *, status: int = 0, problem: str = "") -> None:
        super().__init__(text, status=status, problem=problem)
        self.ids: tuple[str, ...] = ()


class UnexpectedAnswer(TocsinError):  # noqa: N818
    """What answered is not tocsin, or is a version that this client does not know."""


class NotSettled(TocsinError):  # noqa: N818
    """The event had not reached its end within the time that `wait_settled` was given."""
