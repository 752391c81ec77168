"""How much of what is claimed lanes may hold in memory: each as much as it leaves free for the others.

So one lane that hangs holds half of it, a second one half of the rest, and there is always some left for the others
(the same rule as for streams, see `http2/waiting.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LANES_BYTES: Final = 64 * 1024 * 1024
"""For all lanes together."""
DELIVERY_BYTES: Final = 2048
"""About what a delivery takes beside its event: itself, its request, its payload."""


class Memory:
    """What all lanes share."""

    def __init__(self, size_bytes: int = LANES_BYTES) -> None:
        self.free_bytes = size_bytes


class Share:
    """What one lane holds of it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.held_bytes = 0

    @property
    def room_bytes(self) -> int:
        """How much more the lane may take; at least one delivery, whatever its size, if it holds nothing."""
        room = (self._memory.free_bytes - self.held_bytes) // 2
        return max(room, 0 if self.held_bytes else 1)

    @property
    def is_half_full(self) -> bool:
        return self.held_bytes > self._memory.free_bytes // 2

    def take(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self._memory.free_bytes -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.take(-size_bytes)

    def take_first(self, sizes_bytes: Sequence[int]) -> int:
        """Hold the first of some deliveries of these sizes, as many as there is room for; returns how many."""
        room, total, count = self.room_bytes, sum(sizes_bytes), len(sizes_bytes)
        if total > room:
            total = count = 0
            for size in sizes_bytes:
                if total >= room:
                    break
                total += size
                count += 1
        self.take(total)
        return count
