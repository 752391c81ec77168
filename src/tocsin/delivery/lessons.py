"""What deliveries teach the registry: which route reaches a device, and when one was last reached."""

from __future__ import annotations

from typing import Final

from tocsin.domain.devices import Device, System
from tocsin.providers.base import Push
from tocsin.store.ports import Learned, Registry

REACHED_NOTED_EVERY_MS: Final = 24 * 3600 * 1000
_MOST_REACHED: Final = 20_000


class Lessons:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._routes: list[Learned] = []
        self._reached: dict[Device, int] = {}

    def route(self, push: Push, now_ms: int) -> None:
        """A delivery needed another route than the device's own."""
        device, route = push.device, push.route
        apns = device.system == System.APNS
        self._routes.append(
            Learned(
                owner=device.owner,
                system=device.system,
                token=device.token,
                sandbox=route.lane.startswith("apns:sandbox:") if apns else None,
                project=None if apns else route.lane.removeprefix("fcm:"),
                field=None if apns else route.field,
                success_ms=now_ms,
            )
        )

    def reached(self, device: Device, now_ms: int) -> None:
        """For the first time since `REACHED_NOTED_EVERY_MS`."""
        # Where there are more than can be written, the next delivery of the day is noted instead.
        if len(self._reached) < _MOST_REACHED:
            self._reached[device] = now_ms

    async def write_routes(self) -> None:
        """Raises StoreUnavailable; they are kept for the next time."""
        if self._routes:
            learned = list(self._routes)
            await self._registry.learn(learned)
            del self._routes[: len(learned)]

    async def write_reached(self) -> None:
        """Many at a time: each on its own would write a page for every device.

        What fails is noted when they are reached again. Raises StoreUnavailable.
        """
        if self._reached:
            reached, self._reached = self._reached, {}
            await self._registry.learn(
                [
                    Learned(owner=device.owner, system=device.system, token=device.token, success_ms=at_ms)
                    for device, at_ms in reached.items()
                ]
            )
