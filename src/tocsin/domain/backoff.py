"""How long to wait after failures in a row."""

from __future__ import annotations

from typing import Final

_MOST_DOUBLINGS: Final = 30
"""Far beyond every bound. Two to the power of all failures of a day is no float."""


def doubled_s(first_s: float, cap_s: float, times: int) -> float:
    """`first_s`, doubled so many times, and at most `cap_s` (seconds)."""
    return min(cap_s, first_s * 2.0 ** min(times, _MOST_DOUBLINGS))
