"""The devices of the owners asked for last, in memory.

Exact: what a commit has changed is forgotten before its caller is told, and what a look-up on its way meanwhile has
found of it is not remembered. Kept as text: so many objects that live long would spread the short-lived ones of every
delivery over all of the heap.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from tocsin.domain.devices import Device
from tocsin.domain.events import UserId

_MOST_BYTES: Final = 64 * 1024 * 1024
_ENTRY_BYTES: Final = 250
"""About what an entry takes beside its text."""
_ADMITTED_WHEN_FULL: Final = 1 / 8
"""The share of look-ups that is remembered once there is no more room. Owners of many events are remembered all the
same; a load that goes through more owners than there is room for would only push each out before it comes again
(Qureshi et al., "Adaptive Insertion Policies for High Performance Caching", 2007)."""

_NO_DEVICES: Final = b"[]"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Device]).decode


class KnownDevices:
    def __init__(self, most_bytes: int = _MOST_BYTES, *, random: Callable[[], float]) -> None:
        self._most_bytes = most_bytes
        self._random = random
        self._full = False
        self._bytes = 0
        self._by_owner: OrderedDict[UserId, bytes] = OrderedDict()
        self._changes = 0
        self._changed: dict[UserId, int] = {}
        self._all_changed = 0
        self._looking_up = 0

    def find(self, owners: Sequence[UserId]) -> tuple[dict[UserId, list[Device]], list[UserId]]:
        """What is known of these owners, and those of whom nothing is. Who has no device is known, and left out."""
        found: dict[UserId, list[Device]] = {}
        known = self._by_owner
        unknown = [owner for owner in owners if owner not in known]
        if len(unknown) < len(owners):
            for owner in owners:
                text = known.get(owner)
                if text is not None:
                    known.move_to_end(owner)
                    if text != _NO_DEVICES:
                        found[owner] = _decode(text)
        return found, unknown

    def look_up_begins(self) -> int:
        """Returns what `look_up_ends` wants to know of when it began."""
        self._looking_up += 1
        return self._changes

    def look_up_ends(self, since: int, owners: Iterable[UserId], found: dict[UserId, list[Device]] | None) -> None:
        """Keep what was found, if anything was, except what was changed since the look-up began."""
        if found is not None and (not self._full or self._random() < _ADMITTED_WHEN_FULL):
            self._keep(since, owners, found)
        self._looking_up -= 1
        if not self._looking_up:
            self._changed.clear()

    def forget(self, owners: Iterable[UserId]) -> None:
        """These were changed: called when the commit is done, before anybody is told."""
        self._changes += 1
        for owner in owners:
            text = self._by_owner.pop(owner, None)
            if text is not None:
                self._bytes -= _size(text)
            if self._looking_up:
                self._changed[owner] = self._changes

    def forget_all(self) -> None:
        """Another process has changed the file, nobody knows where."""
        self._changes += 1
        self._all_changed = self._changes
        self._by_owner.clear()
        self._bytes = 0
        self._full = False

    def _keep(self, since: int, owners: Iterable[UserId], found: dict[UserId, list[Device]]) -> None:
        for owner in owners:
            if max(self._all_changed, self._changed.get(owner, 0)) <= since and owner not in self._by_owner:
                text = self._by_owner[owner] = _encode(found.get(owner, []))
                self._bytes += _size(text)
        while self._bytes > self._most_bytes:
            self._full = True
            _, text = self._by_owner.popitem(last=False)
            self._bytes -= _size(text)


def _size(text: bytes) -> int:
    return _ENTRY_BYTES + len(text)
