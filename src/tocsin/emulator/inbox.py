"""What arrived: the newest pushes in memory, and which of them came twice."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from tocsin.emulator.arrived import Arrived
from tocsin.emulator.frames import Reading
from tocsin.emulator.journal import Journal
from tocsin.emulator.tally import Tally

_IDS_REMEMBERED: Final = 1_000_000


class Inbox:
    """The newest `size` pushes. Every one that is accepted passes here once."""

    def __init__(self, size: int, journal: Journal | None, tally: Tally) -> None:
        self._size = size
        self._arrived: deque[Arrived] = deque(maxlen=size)
        self._journal = journal
        self._tally = tally
        self._ids = _Seen(_IDS_REMEMBERED)

    def accept(
        self,
        provider: str,
        environment: str | None,
        token: bytes,
        id: bytes,
        reading: Reading,
        body: bytes,
        *,
        chosen: bool = False,
    ) -> None:
        """Keep a push; `chosen` where its id is the sender's choice, so that the same one twice is a duplicate."""
        arrived = Arrived(time.time(), provider, environment, token, id, reading.frame, reading.values, body)
        self._arrived.append(arrived)
        self._tally.accepted += 1
        if chosen and self._ids.again(id):
            self._tally.duplicates += 1
        if self._journal is not None:
            self._journal.add(arrived)

    def clear(self) -> None:
        self._arrived.clear()

    def __len__(self) -> int:
        return len(self._arrived)

    @property
    def tokens_issued(self) -> int:
        """OAuth access tokens, so far."""
        return self._tally.access_tokens_issued

    def find(
        self,
        *,
        token: str | None = None,
        provider: str | None = None,
        environment: str | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """The newest `limit` that match, newest last."""
        wanted = None if token is None else {token.encode(), token.lower().encode()}
        found: list[Arrived] = []
        for arrived in reversed(self._arrived):
            if limit is not None and len(found) >= limit:
                break
            if (
                (wanted is None or arrived.token in wanted)
                and (provider is None or arrived.provider == provider)
                and (environment is None or arrived.environment == environment)
            ):
                found.append(arrived)
        return [arrived.as_json() for arrived in reversed(found)]


class _Seen:
    """Remembers ids, at least the last `size` / 2 and at most `size` of them, by their 64-bit hash."""

    def __init__(self, size: int) -> None:
        self._half = size // 2
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def again(self, id: bytes) -> bool:
        mark = hash(id)
        if mark in self._newer or mark in self._older:
            return True
        self._newer.add(mark)
        if len(self._newer) > self._half:
            self._older, self._newer = self._newer, set()
        return False
