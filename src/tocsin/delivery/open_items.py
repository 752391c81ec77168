"""An item while its deliveries are out, and each of those deliveries."""

from __future__ import annotations

from typing import Final

from tocsin.domain.devices import Device
from tocsin.domain.routes import Route
from tocsin.providers.base import Content, Push
from tocsin.store.records import Attempt, Item, Parked, Settlement

_NEVER: Final = float("inf")


class OpenItem:
    """A claimed item with the number of deliveries that are still out, and what became of the others."""

    __slots__ = ("attempts", "content", "extended", "item", "left", "lost", "parked", "send_until")

    def __init__(self, item: Item, in_time_s: float) -> None:
        """An attempt takes at most `in_time_s`."""
        self.item = item
        self.content = Content(item.event)
        self.left = 0
        self.attempts: list[Attempt] = []
        self.parked: dict[tuple[str, int, int], list[str]] | None = None
        self.send_until = _NEVER if item.deadline is None else item.deadline - in_time_s
        """What still waits in a lane then goes back to the queue (event loop's time)."""
        self.extended = False
        self.lost = False
        """Ownership has ended: nothing of it may be sent any more, and it cannot be settled."""

    def lose(self) -> None:
        self.lost = True
        self.send_until = -_NEVER

    def park(self, lane: str, due_ms: int, tries: int, target: str) -> None:
        """This device waits for its lane or its time, never beyond the event's lifetime."""
        if self.parked is None:
            self.parked = {}
        self.parked.setdefault((lane, min(due_ms, self.item.event.expires_ms), tries), []).append(target)

    def settlement(self) -> Settlement:
        parked = [Parked(*key, tuple(targets)) for key, targets in self.parked.items()] if self.parked else ()
        return Settlement(self.item, self.attempts, parked)


class Delivery(Push):
    """One delivery of an open item. Providers know it as a `Push`."""

    __slots__ = ("item", "queued_at", "tries")

    def __init__(self, device: Device, route: Route, item: OpenItem, tries: int) -> None:
        self.content = item.content
        self.device = device
        self.route = route
        self.tried = ()
        self.item = item
        self.tries = tries
        """Attempts of this round that came before the next one."""
        self.queued_at = 0.0
        """Since when it waits in its lane (event loop's time)."""
