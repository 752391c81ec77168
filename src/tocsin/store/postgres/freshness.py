"""Whether this node may send: only for a short time after a heartbeat that the database has acknowledged."""

from __future__ import annotations

from collections.abc import Callable


class Freshness:
    """A heartbeat is a commit: only the primary that its standby still answers can acknowledge it. Its time counts from
    when it was sent, on this host's monotonic clock, and only once all signals committed before it were applied."""

    def __init__(self, fresh_s: float, monotonic: Callable[[], float]) -> None:
        self._fresh_s = fresh_s
        self._monotonic = monotonic
        self._until = float("-inf")
        self.in_a_row = 0
        """How many heartbeats have succeeded since the last that did not."""

    def is_fresh(self) -> bool:
        return self._monotonic() < self._until

    def acknowledged(self, sent_at: float) -> None:
        """A heartbeat that was sent then has succeeded, and the signals were applied."""
        self._until = max(self._until, sent_at + self._fresh_s)
        self.in_a_row += 1

    def failed(self) -> None:
        """Nothing may be sent until a heartbeat succeeds."""
        self._until = float("-inf")
        self.in_a_row = 0
