"""When a delivery is tried again. Pure: time and randomness come in as arguments."""

from __future__ import annotations

from typing import Final

from tocsin.domain.backoff import doubled_s
from tocsin.domain.outcomes import Backoff, RetryLater

MISCONFIGURED: Final = Backoff(60.0, 900.0, jitter=False)
"""One minute, doubling to fifteen, until the event's lifetime ends: once the credential is mended it is delivered."""
_SECOND_AT_ONCE_S: Final = 2.0


def delay_s(backoff: Backoff, tries: int, random: float) -> float:
    """How long to wait after attempt number `tries` + 1 failed; `random` is in [0, 1)."""
    first, exponent = backoff.first_s, tries
    if first == 0:
        if tries == 0:
            return 0.0
        first, exponent = _SECOND_AT_ONCE_S, tries - 1
    bound = doubled_s(first, backoff.cap_s, exponent)
    if not backoff.jitter:
        return bound
    return backoff.floor_s + max(0.0, bound - backoff.floor_s) * random


def retry_at_ms(outcome: RetryLater, tries: int, now_ms: int, random: float) -> int:
    """When to try again (Unix milliseconds): by the outcome's back-off, but not before the provider said."""
    return now_ms + int(max(outcome.after_s or 0.0, delay_s(outcome.backoff, tries, random)) * 1000)
