"""Verdicts that are remembered for a short time, in a bounded number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from tocsin.sign_in.verdicts import Verdict


class VerdictCache:
    """At most `most` verdicts; where there is no room, the oldest gives way. `monotonic` measures times."""

    def __init__(self, most: int, monotonic: Callable[[], float]) -> None:
        self._most = most
        self._monotonic = monotonic
        self._held: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()

    def get(self, key: bytes) -> Verdict | None:
        """What is remembered and still counts."""
        held = self._held.get(key)
        if held is None:
            return None
        until, verdict = held
        if until <= self._monotonic():
            del self._held[key]
            return None
        return verdict

    def put(self, key: bytes, verdict: Verdict, for_s: float) -> None:
        """Remember it for `for_s` seconds; not at all where that is not more than none."""
        self._held.pop(key, None)
        if for_s <= 0:
            return
        if len(self._held) >= self._most:
            self._held.popitem(last=False)
        self._held[key] = (self._monotonic() + for_s, verdict)

    def __len__(self) -> int:
        return len(self._held)
