"""What deliveries teach the registry: which route reaches a device, and when one was last reached."""

from __future__ import annotations

from typing import Final

from tocsin.domain.devices import Address, Device
from tocsin.store.ports import Registry
from tocsin.store.records import Learned

NOTED_EVERY_MS: Final = 24 * 3600 * 1000
"""How often it is noted that a device was reached."""
_MOST_REACHED: Final = 20_000


class Learning:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._addresses: list[Learned] = []
        self._reached: dict[Device, int] = {}

    def address(self, device: Device, address: Address, now_ms: int) -> None:
        """A delivery reached the device at another address than it is stored with."""
        self._addresses.append(Learned(device, address, now_ms))

    def reached(self, device: Device, now_ms: int) -> None:
        """A device was reached, for the first time since `NOTED_EVERY_MS`."""
        # Where there are more than can be written, the next delivery of the day is noted instead.
        if len(self._reached) < _MOST_REACHED:
            self._reached[device] = now_ms

    async def write_addresses(self) -> None:
        """Raises WriteFailure; they are kept for the next time."""
        if self._addresses:
            learned = list(self._addresses)
            await self._registry.learn(learned)
            del self._addresses[: len(learned)]

    async def write_reached(self) -> None:
        """Many at a time: each on its own would write a page for every device.

        What fails is noted when they are reached again. Raises WriteFailure.
        """
        if self._reached:
            reached, self._reached = self._reached, {}
            await self._registry.learn([Learned(device, None, at_ms) for device, at_ms in reached.items()])
