"""The numbers of shapes: what an index of the search keeps of an event is its owner's key and its shape's number.

Shapes of which everything was delivered have negative numbers: those that something went wrong with are few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from zlib import crc32

from tocsin.store.records import Attempt, Parked, Query, State
from tocsin.store.searching import Shape, is_plain, may_match, shape_of, states_of

MOST_SHAPES: Final = 20_000
"""Events of further shapes are looked at one by one."""
ANY_SHAPE: Final = 1
"""Stands for a shape that is not on record; any query may match it."""

Alike = tuple[str, str, str, str, int]
"""An event's message, and the lane, result, reason and status of its only attempt."""


def owner_key(owner: str) -> int:
    """Two owners with the same key are told apart by the events themselves."""
    return crc32(owner.encode())


def alike(message: str, attempt: Attempt) -> Alike:
    """Of an event that has this attempt alone."""
    return (message, attempt.lane, attempt.result, attempt.reason, attempt.status)


def wanted(shapes: Mapping[int, Shape], query: Query) -> set[int]:
    """The numbers of the shapes that events may have which are looked for."""
    return {id for id, shape in shapes.items() if may_match(shape, query)} | {ANY_SHAPE}


class Shapes:
    """All shapes there are. `write` is told of a new one, which it has to put on record."""

    def __init__(self, known: Mapping[Shape, int], write: Callable[[int, Shape], None]) -> None:
        self._known = dict(known)
        self._write = write
        self.alike: dict[Alike, int] = {}
        """The shapes of events with one attempt, for which nothing waits: most events are so."""

    def __len__(self) -> int:
        return len(self._known)

    def settled(self, message: str, accepted_ms: int, attempts: Sequence[Attempt]) -> int:
        """The shape of an event for which nothing waits."""
        key: Alike | None = None
        if len(attempts) == 1 and attempts[0].lane:
            # A lane belongs to one provider.
            key = alike(message, attempts[0])
            if (known := self.alike.get(key)) is not None:
                return known
        shape = self.number(shape_of(message, states_of(attempts, (), accepted_ms, State.DONE)))
        if key is not None and len(self.alike) < MOST_SHAPES:
            self.alike[key] = shape
        return shape

    def waiting(
        self, message: str, accepted_ms: int, attempts: Sequence[Attempt], parked: Sequence[Parked], state: State
    ) -> int:
        """The shape of an event for which something waits, or that nobody has tried yet."""
        return self.number(shape_of(message, states_of(attempts, parked, accepted_ms, state)))

    def number(self, shape: Shape) -> int:
        id = self._known.get(shape)
        if id is None:
            if len(self._known) >= MOST_SHAPES:
                return ANY_SHAPE
            number = len(self._known) + ANY_SHAPE + 1
            id = self._known[shape] = -number if is_plain(shape) else number
            self._write(id, shape)
        return id
