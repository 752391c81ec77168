"""When a request is sent again, and after how long.

Repeating is safe: every event has an id, and tocsin delivers an event whose id and content it knows once (24 hours).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

REPEATABLE: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed: tocsin's own, and those of a proxy before it."""
_FIRST_S: Final = 0.1
_LONGEST_S: Final = 10.0
_GROWING_TRIES: Final = 10
"""After so many tries a pause has its full length; two to the power of all tries would not be a number for long."""


class Patience:
    """How long one call goes on: pauses grow from 0.1 to 10 s, with full jitter, until `give_up_after_s` is over."""

    def __init__(
        self,
        give_up_after_s: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._monotonic = monotonic
        self._uniform = uniform
        self._until = monotonic() + give_up_after_s
        self._tries = 0

    def pause_s(self, retry_after_s: float | None = None) -> float | None:
        """How long to wait before the next attempt; None when there is no time for another.

        What the server asks for (`Retry-After`) is the least, and a little is added so that not all clients return at
        once.
        """
        longest = min(_LONGEST_S, _FIRST_S * 2.0 ** min(self._tries, _GROWING_TRIES))
        self._tries += 1
        jitter = self._uniform(0.0, longest)
        pause = jitter if retry_after_s is None else retry_after_s + jitter / 10
        return pause if self._monotonic() + pause < self._until else None


def retry_after_s(value: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """The header `Retry-After` (RFC 9110, 10.2.3) in seconds: a number, or a date. None where it is neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - now()).total_seconds())
