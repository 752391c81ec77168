"""An item while its deliveries are out, and each of those deliveries."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from tocsin.delivery.memory import DELIVERY_BYTES
from tocsin.delivery.tracing import ItemTrace
from tocsin.providers.base import Content, Push
from tocsin.store.records import Attempt, Item, Parked, Settlement

NEVER: Final = float("inf")


class OpenItem(Struct, eq=False, gc=False):
    """A claimed item with the number of deliveries that are still out, and what became of the others.

    A Struct that the garbage collector does not look at, like its deliveries: it never refers to them.
    """

    item: Item
    content: Content
    send_until: float = NEVER
    """What still waits in a lane then goes back to the queue (event loop's time)."""
    size_bytes: int = 0
    """The event's content."""
    left: int = 0
    attempts: list[Attempt] = []
    parked: dict[tuple[str, int, int], list[str]] | None = None
    """The devices that wait, by lane, due time and attempts so far."""
    extended: bool = False
    trace: ItemTrace | None = None
    lost: bool = False
    """Ownership has ended: nothing of it may be sent any more, and it cannot be settled."""

    def lose(self) -> None:
        self.lost = True
        self.send_until = -NEVER

    def park(self, lane: str, due_ms: int, tries: int, target: str) -> None:
        """This device waits for its lane or its time, never beyond the event's lifetime."""
        if self.parked is None:
            self.parked = {}
        self.parked.setdefault((lane, min(due_ms, self.item.event.expires_ms), tries), []).append(target)

    def settlement(self) -> Settlement:
        parked = [Parked(*key, tuple(targets)) for key, targets in self.parked.items()] if self.parked else ()
        return Settlement(self.item, self.attempts, parked)


class Delivery(Push, kw_only=True, eq=False, gc=False):
    """One delivery of an open item, whose content it shares. Providers know it as a `Push`."""

    item: OpenItem
    tries: int
    """Attempts of this round that came before the next one."""
    size_bytes: int = DELIVERY_BYTES
    """About what it holds in memory. The event counts with the first delivery of its item."""
    queued_at: float = 0.0
    """Since when it waits in its lane (event loop's time)."""
