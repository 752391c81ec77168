"""What every provider is to the dispatcher: pushes in, outcomes out, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from tocsin.domain import payloads
from tocsin.domain.devices import Device
from tocsin.domain.events import Event
from tocsin.domain.lanes import Route
from tocsin.domain.outcomes import Outcome


class Rendering:
    """One event's payloads: made when first asked for, shared by all its devices."""

    __slots__ = ("_apns", "_fcm", "_voip", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._apns: bytes | None = None
        self._voip: bytes | None = None
        self._fcm: bytes | None = None

    def apns(self) -> bytes:
        if self._apns is None:
            self._apns = payloads.apns_payload(self.event.body)
        return self._apns

    def apns_voip(self) -> bytes:
        if self._voip is None:
            self._voip = payloads.apns_payload(self.event.body, payloads.APNS_VOIP_LIMIT_BYTES)
        return self._voip

    def fcm(self) -> bytes:
        if self._fcm is None:
            self._fcm = payloads.fcm_data(self.event.body)
        return self._fcm


class Push:
    """One delivery on its way: an event to one device by one route. Mutable and slotted: one is made per delivery."""

    __slots__ = ("device", "item", "queued_at", "rendering", "route", "sent_us", "tried", "tries", "via")

    def __init__(self, rendering: Rendering, device: Device, route: Route, item: Any, tries: int) -> None:
        self.rendering = rendering
        self.device = device
        self.route = route
        self.item = item
        """The dispatcher's own."""
        self.tries = tries
        """Attempts that came before this one."""
        self.tried: tuple[Route, ...] = ()
        """Routes that the provider has ruled out in this round."""
        self.queued_at = 0.0
        """Since when it waits in its lane (event loop's time)."""
        self.sent_us = 0
        """When it was handed to the provider (Unix microseconds)."""
        self.via: Any = None
        """The provider's own: what it was sent through, which may have been replaced when the answer comes."""


Report = Callable[[list[tuple[Push, Outcome]]], None]
ToWithdraw = Callable[[Iterable[Push]], Sequence[Push]]
"""Which of some pushes must not go out any more: their token was deleted meanwhile, or their lifetime has ended."""


def none_withdrawn(pushes: Iterable[Push]) -> Sequence[Push]:
    return ()


class Provider(Protocol):
    def route(self, device: Device) -> Route:
        """The way to try first."""

    def send(self, pushes: Sequence[Push]) -> None:
        """Send each push by its route; every one of them is reported, exactly once, in whatever order."""

    async def close(self) -> None: ...


def delivery_id(event_id: str, device_token: str) -> str:
    """A UUID (version 8, RFC 9562) that is the same at every attempt to bring this event to this device."""
    digest = blake2b((event_id + device_token).encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"
