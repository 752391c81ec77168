"""When again, and when to give up. Pure: the clock and the dice come in as arguments."""

from __future__ import annotations

from typing import Final

from tocsin.domain.outcomes import Backoff, RetryLater

MISCONFIGURED: Final = Backoff(60.0, 900.0, jitter=False)
"""One minute, doubling to fifteen, until the event's lifetime ends: a credential that is mended still delivers."""
_SECOND_AT_ONCE_S: Final = 2.0


def delay_s(backoff: Backoff, tries: int, dice: float) -> float:
    """How long to wait after attempt number `tries` + 1 failed; `dice` is in [0, 1)."""
    first, exponent = backoff.first_s, tries
    if first == 0:
        if tries == 0:
            return 0.0
        first, exponent = _SECOND_AT_ONCE_S, tries - 1
    bound = min(backoff.cap_s, first * 2.0 ** min(exponent, 30))
    if not backoff.jitter:
        return bound
    return backoff.floor_s + max(0.0, bound - backoff.floor_s) * dice


def retry_at_ms(outcome: RetryLater, tries: int, now_ms: int, dice: float) -> int:
    """When to try again: the provider's own word first, else the outcome's back-off."""
    wait_s = outcome.after_s if outcome.after_s is not None else delay_s(outcome.backoff, tries, dice)
    return now_ms + int(wait_s * 1000)
