"""Logs what failed: its event, lane and reason, and what happens next; never more than a few lines of one kind.

Within a minute, for each lane and reason, a few deliveries that failed for good are logged, and one attempt that is
made again. The others are counted, and their number is logged when the minute is over. What succeeds is not logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final

import structlog
from msgspec import Struct

log = structlog.get_logger(__name__)

_WINDOW_S: Final = 60.0
_MOST_LINES: Final = 5
"""Of deliveries that failed for good, within a minute, by lane and reason."""
_MOST_KINDS: Final = 500
"""Reasons are the provider's words: beyond so many lanes and reasons in a minute all others count as one."""
_SHOWN: Final = 8
"""So many characters of a device token, which has at least four times as many."""


class Failed(StrEnum):
    """How a delivery failed for good, and what happens next."""

    EXPIRED = "nothing: the event's lifetime is over; replay it with `tocsin deadletter replay` if it is still wanted"
    REFUSED = "nothing: it would be refused again; correct the event or the registration, then replay it"
    OUR_BUG = "nothing: tocsin should not have sent it so; please report it, with the reason"
    TOKEN_DEAD = "the registration is removed; the app registers anew when it is used again"
    QUARANTINED = "the registration is kept in quarantine; see `tocsin quarantine list`"

    @property
    def level(self) -> str:
        match self:
            case Failed.TOKEN_DEAD:
                return "info"
            case Failed.OUR_BUG:
                return "error"
            case _:
                return "warning"


class _Kind(Struct):
    """The failures of one kind in this minute."""

    until: float
    level: str
    lines: int = 0
    more: int = 0
    last_event: str = ""


class FailureLog:
    """See the module. `clock` is the event loop's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str, str, str], _Kind] = {}
        """By the line's text, lane, result and reason."""

    def failed(
        self,
        event_id: str,
        device: str,
        lane: str,
        result: str,
        status: int,
        reason: str,
        failed: Failed,
        fields: Sequence[str] = (),
    ) -> None:
        """A delivery has failed for good. `device` is its key; `fields` are those that the provider names."""
        text, level = "delivery failed", failed.level
        if self._has_room((text, lane, result, reason), level, event_id, _MOST_LINES):
            values = _given(lane=lane, result=result, status=status, reason=reason, fields=fields)
            getattr(log, level)(text, event_id=event_id, device=shortened(device), **values, next=failed.value)

    def again(self, event_id: str, device: str, lane: str, result: str, status: int, reason: str, in_s: float) -> None:
        """An attempt has failed, and the delivery is tried again in so many seconds."""
        # Without an answer the reason is free text of our own: it is shown, and is no kind of its own.
        text, kind = "attempt failed", reason if status else ""
        if self._has_room((text, lane, result, kind), "warning", event_id, 1):
            values = _given(lane=lane, result=result, status=status, reason=reason)
            then = f"tried again in {in_s:.0f} s, until the event's lifetime is over"
            log.warning(text, event_id=event_id, device=shortened(device), **values, next=then)

    def write_counted(self, *, all: bool = False) -> None:
        """Log how many there were beside those that were logged, of each kind whose minute is over. To be called about
        once a second; `all` at the end."""
        now = self._clock()
        for key in [key for key, kind in self._kinds.items() if all or kind.until <= now]:
            kind = self._kinds.pop(key)
            if kind.more:
                text, lane, result, reason = key
                values = _given(lane=lane, result=result, reason=reason, last_event_id=kind.last_event)
                getattr(log, kind.level)(f"{text}: more like it", count=kind.more, **values)

    def _has_room(self, key: tuple[str, str, str, str], level: str, event_id: str, most: int) -> bool:
        """Whether one more of this kind may be logged; otherwise it is counted."""
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= _MOST_KINDS:
                key, most = (key[0], "", "", ""), 0
            kind = self._kinds.setdefault(key, _Kind(self._clock() + _WINDOW_S, level))
        if kind.lines < most:
            kind.lines += 1
            return True
        kind.more += 1
        kind.last_event = event_id
        return False


def shortened(key: str) -> str:
    """A device's key with the beginning of its token, by which it can be told apart and not be rung."""
    provider, _, token = key.partition(":")
    return f"{provider}:{token[: min(_SHOWN, len(token) // 4)]}…"


def _given(**values: Any) -> dict[str, Any]:
    """Without those that are not known."""
    return {name: value for name, value in values.items() if value}
