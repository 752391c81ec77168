"""Device tokens that were deleted: what already waits for them in memory must not be sent."""

from __future__ import annotations

from collections.abc import Callable

from tocsin.domain.devices import Device
from tocsin.domain.events import UserId


class Cancellations:
    """Marks of deleted registrations, kept for as long as anything older than the deletion can be in memory."""

    def __init__(self, clock: Callable[[], float], kept_s: float) -> None:
        self._clock = clock
        self._kept_s = kept_s
        self.marks: dict[tuple[str, str], float] = {}
        """Owner and device key, and until when. Looked at directly where a call per delivery would be too dear."""

    def deleted(self, owner: UserId, provider: str, token: str) -> None:
        self.marks[owner, f"{provider}:{token}"] = self._clock() + self._kept_s

    def registered(self, owner: UserId, provider: str, token: str) -> None:
        """It was registered again, or restored: an earlier deletion no longer counts."""
        self.marks.pop((owner, f"{provider}:{token}"), None)

    def __contains__(self, device: Device) -> bool:
        return bool(self.marks) and (device.owner, device.key) in self.marks

    def forget_old(self) -> None:
        now = self._clock()
        self.marks = {mark: until for mark, until in self.marks.items() if until > now}
