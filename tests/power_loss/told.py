"""What a recorded story was told, as marks between the operations: what it starts, and what was answered.

An action makes facts true: the name of a thing, and how it is. While it is not answered, each of its facts may be as
before or as it says; once it is answered, it is as it says; and where it was refused, never.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from tests.power_loss.trace import Marked

Facts = dict[str, str | None]


class Told:
    """Writes marks. Without the recorder they go nowhere."""

    def __init__(self) -> None:
        self._recorder = ctypes.CDLL(None)
        self._mark = getattr(self._recorder, "power_loss_mark", None)
        self._number = 0

    def begins(self, name: str, facts: Facts) -> None:
        """All that was done before is durable, and `facts` are true."""
        self._say(Marked(kind="begins", name=name, facts=facts))

    def ends(self) -> None:
        self._say(Marked(kind="ends"))

    @contextmanager
    def action(
        self,
        facts: Facts,
        *,
        atomic: bool = True,
        refused_by: type[Exception] | None = None,
        may_be_answered: bool = False,
    ) -> Iterator[None]:
        """Around a call: it starts, and it is answered. With `refused_by`, it is refused, and has to be, unless it
        `may_be_answered`."""
        self._number += 1
        number = self._number
        self._say(Marked(kind="starts", number=number, facts=facts, atomic=atomic))
        if refused_by is None:
            yield
            self._say(Marked(kind="answers", number=number))
            return
        try:
            yield
        except refused_by:
            self._say(Marked(kind="refuses", number=number))
        else:
            if not may_be_answered:
                raise AssertionError(f"this was to be refused: {facts}")
            self._say(Marked(kind="answers", number=number))

    def fail_syncs(self, count: int, *, after: int = 0) -> None:
        """So many syncs of files fail, after some that do not: only with the recorder."""
        self._recorder.power_loss_fail_syncs(count, after)

    @property
    def syncs_to_fail(self) -> int:
        """How many of these are still to come."""
        return int(self._recorder.power_loss_syncs_to_fail())

    def possible(self, facts: Facts) -> None:
        """Each of these may be true from now on, or not."""
        self._number += 1
        self._say(Marked(kind="starts", number=self._number, facts=facts, atomic=False))

    def _say(self, marked: Marked) -> None:
        if self._mark is not None:
            self._mark(msgspec.json.encode(marked))
