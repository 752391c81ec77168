"""What traces deliveries, where tracing is on. Whoever starts delivery brings it.

It is asked once for a batch, and only looks for the events that are traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from tocsin.delivery.open_items import Delivery, OpenItem


class ItemTrace(Struct, gc=False):
    """Of a claimed item that is traced: the span of its claim, and when its deliveries were given to the provider."""

    claim: Any
    sent_ms: dict[str, list[int]]
    """By the device's key."""


class DeliveryTraces(Protocol):
    def now_ms(self) -> int: ...

    def claimed(self, items: Sequence[OpenItem], now_ms: int) -> None:
        """Items were claimed: those that are traced get a `trace`."""

    def sent(self, deliveries: Sequence[Delivery], now_ms: int) -> None:
        """Deliveries are given to their provider."""

    def settled(self, items: Sequence[OpenItem], began_ms: int) -> None:
        """What became of these items is durable; to write that was begun at `began_ms`."""
