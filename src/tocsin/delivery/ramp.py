"""After a pause for a rate: sending begins low, and grows for a minute, as providers ask for."""

from __future__ import annotations

from typing import Final

RAMP_S: Final = 60.0
_FIRST_PER_S: Final = 10


class Ramp:
    """How many may be sent in each second of the minute that began at `began` (event loop's time)."""

    def __init__(self, began: float, most_per_s: int, renewals: int) -> None:
        """`most_per_s` is reached at the minute's end; `renewals` are those of the pause that came before."""
        self.renewals = renewals
        self._began = began
        self._most_per_s = most_per_s
        self._second = 0
        self._sent = 0

    def room(self, now: float) -> int | None:
        """How many more may be sent in this second; None when the minute is over."""
        age_s = now - self._began
        if age_s >= RAMP_S:
            return None
        second = int(age_s)
        if second != self._second:
            self._second, self._sent = second, 0
        allowed = max(_FIRST_PER_S, int(self._most_per_s * second / RAMP_S))
        return max(0, allowed - self._sent)

    def sent(self, count: int) -> None:
        self._sent += count
