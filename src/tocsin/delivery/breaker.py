"""A lane's breaker: counts failures, and says when there are so many that the provider is to be left alone."""

from __future__ import annotations

from collections import deque
from typing import Final

_CONSECUTIVE_FAILURES: Final = 5
_RATE_ATTEMPTS: Final = 20
_RATE_FAILURES: Final = 0.5


LINK: Final = ""
"""In place of a device: a connection failed, none could be opened, or the account got no access token. Each time counts
as another device."""


class Breaker:
    """Opens after the failures of five devices in a row, or when ten devices failed in the last twenty attempts.

    One device whose pushes fail says nothing of the provider, however often they do: others must not wait for it.
    """

    def __init__(self) -> None:
        self._in_a_row: set[str] = set()
        """The devices that have failed since the last success."""
        self._recent: deque[str | None] = deque(maxlen=_RATE_ATTEMPTS)
        """Of the last attempts the device that failed; None for one that was answered."""
        self._links = 0

    @property
    def in_a_row(self) -> int:
        """How many devices have failed since the last success."""
        return len(self._in_a_row)

    def healthy(self, attempts: int) -> None:
        """So many attempts were answered."""
        self._in_a_row.clear()
        if self._recent:
            self._recent.extend([None] * min(attempts, _RATE_ATTEMPTS))

    def failure(self, device: str) -> bool:
        """Count the failure of a device's attempt, or of a `LINK`; whether the breaker opens by it."""
        if device == LINK:
            self._links += 1
            device = f"link {self._links}"
        self._in_a_row.add(device)
        self._recent.append(device)
        failed = set(self._recent) - {None}
        return len(self._in_a_row) >= _CONSECUTIVE_FAILURES or (
            len(self._recent) == _RATE_ATTEMPTS and len(failed) >= _RATE_ATTEMPTS * _RATE_FAILURES
        )

    def close(self) -> None:
        """Forget what was counted."""
        self._in_a_row.clear()
        self._recent.clear()
