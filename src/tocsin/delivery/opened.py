"""An event while its deliveries are out."""

from __future__ import annotations

from tocsin.providers.base import Rendering
from tocsin.store.ports import Attempt, Item, Parked, Settlement


class Opened:
    """A claimed item with the deliveries that are still out, and what became of the others."""

    __slots__ = ("attempts", "give_back_at", "item", "left", "parked", "rendering")

    def __init__(self, item: Item, give_back_at: float) -> None:
        self.item = item
        self.give_back_at = give_back_at
        """When what still waits in a lane goes back to the queue (event loop's time)."""
        self.rendering = Rendering(item.event)
        self.left = 0
        self.attempts: list[Attempt] = []
        self.parked: dict[tuple[str, int, int], list[str]] | None = None

    def park(self, lane: str, due_ms: int, tries: int, target: str) -> None:
        if self.parked is None:
            self.parked = {}
        self.parked.setdefault((lane, min(due_ms, self.item.event.expires_ms), tries), []).append(target)

    def settlement(self) -> Settlement:
        parked = [Parked(*key, tuple(targets)) for key, targets in self.parked.items()] if self.parked else []
        return Settlement(self.item, self.attempts, parked)
