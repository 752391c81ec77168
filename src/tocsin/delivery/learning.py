"""What deliveries teach the registry: which route reaches a device, when it was last reached, what is said of it."""

from __future__ import annotations

from typing import Final

from tocsin.domain.devices import Address, Complaint, Device
from tocsin.domain.outcomes import Answer
from tocsin.domain.routes import Route
from tocsin.store.ports import Registry
from tocsin.store.records import Learned

NOTED_EVERY_MS: Final = 24 * 3600 * 1000
"""How often it is noted that a device was reached, and how often that it was complained of."""
_MOST_NOTED: Final = 20_000


class Learning:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._addresses: list[Learned] = []
        self._reached: dict[Device, int] = {}
        self._complaints: dict[Device, Complaint] = {}

    def address(self, device: Device, address: Address, now_ms: int) -> None:
        """A delivery reached the device at another address than it is stored with."""
        self._addresses.append(Learned(device, address, now_ms))

    def reached(self, device: Device, now_ms: int) -> None:
        """A device was reached, for the first time since `NOTED_EVERY_MS`, or since it was complained of."""
        if self._complaints:
            self._complaints.pop(device, None)
        # Where there are more than can be written, the next delivery of the day is noted instead.
        if len(self._reached) < _MOST_NOTED:
            self._reached[device] = now_ms

    def complained(self, device: Device, route: Route, answer: Answer, now_ms: int) -> None:
        """The provider complained of this device alone, in its answer to a push by this route."""
        said, since_ms = device.complaint, now_ms
        if said is not None and (said.account, said.topic) == (route.account, route.topic):
            if now_ms - said.last_ms <= NOTED_EVERY_MS:
                return
            since_ms = said.since_ms
        if device not in self._complaints and len(self._complaints) < _MOST_NOTED:
            reason = f"{answer.status} {answer.reason}"
            self._complaints[device] = Complaint(reason, since_ms, now_ms, route.account, route.topic)

    async def write_addresses(self) -> None:
        """Raises WriteFailure; they are kept for the next time."""
        if self._addresses:
            learned = list(self._addresses)
            await self._registry.learn(learned)
            del self._addresses[: len(learned)]

    async def write_noted(self) -> None:
        """Who was reached, and who was complained of. Many at a time: each on its own would write a page for every
        device.

        Raises WriteFailure; they are kept for the next time: else a device would go into quarantine for its complaint,
        though it was reached since.
        """
        reached, self._reached = self._reached, {}
        complaints, self._complaints = self._complaints, {}
        try:
            if reached:
                await self._registry.learn([Learned(device, None, at_ms) for device, at_ms in reached.items()])
                reached = {}
            # Afterwards: a device in both was reached before it was complained of.
            if complaints:
                await self._registry.learn([Learned(device, complaint=said) for device, said in complaints.items()])
                complaints = {}
        finally:
            if complaints:
                # But for those that were reached meanwhile.
                kept = {device: said for device, said in complaints.items() if device not in self._reached}
                self._complaints = kept | self._complaints
            if reached:
                self._reached = reached | self._reached
