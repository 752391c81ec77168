"""The devices of the owners asked for last, in memory.

Exact: what a commit has changed is forgotten before its caller is told, and what a look-up on its way meanwhile has
found of it is not remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from tocsin.domain.devices import Device
from tocsin.domain.events import UserId

_MOST_BYTES: Final = 64 * 1024 * 1024
_DEVICE_BYTES: Final = 400
"""About what a device takes beside its token, which may be 64 bytes or 4096; an owner without any counts as one."""


class KnownDevices:
    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._by_owner: OrderedDict[UserId, list[Device]] = OrderedDict()
        self._changes = 0
        self._changed: dict[UserId, int] = {}
        self._all_changed = 0
        self._looking_up = 0

    def find(self, owners: Sequence[UserId]) -> tuple[dict[UserId, list[Device]], list[UserId]]:
        """What is known of these owners, and those of whom nothing is. Who has no device is known, and left out."""
        found: dict[UserId, list[Device]] = {}
        unknown: list[UserId] = []
        known = self._by_owner
        for owner in owners:
            devices = known.get(owner)
            if devices is None:
                unknown.append(owner)
            else:
                known.move_to_end(owner)
                if devices:
                    found[owner] = devices
        return found, unknown

    def look_up_begins(self) -> int:
        """Returns what `remember` wants to know of when the look-up was made."""
        self._looking_up += 1
        return self._changes

    def look_up_failed(self) -> None:
        self._look_up_ends()

    def remember(self, since: int, owners: Iterable[UserId], found: dict[UserId, list[Device]]) -> None:
        """Keep what a look-up found, unless it was changed since the look-up began."""
        for owner in owners:
            if max(self._all_changed, self._changed.get(owner, 0)) <= since and owner not in self._by_owner:
                devices = found.get(owner, [])
                self._by_owner[owner] = devices
                self._bytes += _bytes(devices)
        while self._bytes > self._most_bytes:
            _, devices = self._by_owner.popitem(last=False)
            self._bytes -= _bytes(devices)
        self._look_up_ends()

    def forget(self, owners: Iterable[UserId]) -> None:
        """These were changed: called when the commit is done, before anybody is told."""
        self._changes += 1
        for owner in owners:
            devices = self._by_owner.pop(owner, None)
            if devices is not None:
                self._bytes -= _bytes(devices)
            if self._looking_up:
                self._changed[owner] = self._changes

    def forget_all(self) -> None:
        """Another process has changed the file, nobody knows where."""
        self._changes += 1
        self._all_changed = self._changes
        self._by_owner.clear()
        self._bytes = 0

    def _look_up_ends(self) -> None:
        self._looking_up -= 1
        if not self._looking_up:
            self._changed.clear()


def _bytes(devices: Sequence[Device]) -> int:
    return _DEVICE_BYTES * (len(devices) or 1) + sum([len(device.token) for device in devices])
