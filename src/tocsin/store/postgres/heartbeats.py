"""Which of the other nodes have stopped sending heartbeats, as one of them sees it.

By its own monotonic clock: the database's may have been set, and may be another's after a failover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

STALLED_AFTER_S: Final = 6.0
"""A node that has sent no heartbeat for so long, and whose session still holds its locks, is stopped or cut off:
another one, whose own heartbeats are fresh, ends that session. Much longer than a node may send without a heartbeat."""
_UNWATCHED_S: Final = 3.0
"""Who has not looked for so long was stopped or cut off itself, and begins anew: so may all the others have been."""


class Heartbeats:
    def __init__(self, monotonic: Callable[[], float]) -> None:
        """`monotonic` gives seconds."""
        self._monotonic = monotonic
        self._looked_at = float("-inf")
        self._seen: dict[int, tuple[datetime, float]] = {}
        """Of each node the last heartbeat, and when it was seen first."""

    def stalled(self, beats: Mapping[int, datetime]) -> dict[int, datetime]:
        """Of these nodes, each with its last heartbeat, those that have stalled. To be called once a second."""
        now, seen = self._monotonic(), self._seen
        if now - self._looked_at > _UNWATCHED_S:
            seen = {}
        self._looked_at = now
        self._seen = {
            node: seen[node] if node in seen and seen[node][0] == beat else (beat, now) for node, beat in beats.items()
        }
        return {node: beat for node, (beat, since) in self._seen.items() if now - since > STALLED_AFTER_S}
