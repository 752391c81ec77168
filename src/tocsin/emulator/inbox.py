"""The accepted pushes: the newest are kept in memory, and repeated ids are counted."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from tocsin.emulator.accepted_push import AcceptedPush
from tocsin.emulator.counters import Counters
from tocsin.emulator.header_cache import ParsedHeaders
from tocsin.emulator.journal import Journal
from tocsin.emulator.options import Clock

_MAX_IDS: Final = 1_000_000


class Inbox:
    """The newest `size` accepted pushes. APNs and FCM handlers call `add` once for each push they accept."""

    def __init__(self, size: int, journal: Journal | None, counters: Counters, clock: Clock) -> None:
        self._pushes: deque[AcceptedPush] = deque(maxlen=size)
        self._journal = journal
        self._counters = counters
        self._clock = clock
        self._ids = _RecentIds(_MAX_IDS)

    def add(
        self,
        provider: str,
        environment: str | None,
        token: bytes,
        id: bytes,
        headers: ParsedHeaders[Any],
        body: bytes,
        *,
        id_from_sender: bool = False,
    ) -> None:
        """Store one accepted push, count it, and write it to the journal if there is one.

        With `id_from_sender` the sender has chosen `id`, so that a second push with it is counted as a duplicate.
        """
        push = AcceptedPush(self._clock(), provider, environment, token, id, headers.shared, headers.values, body)
        self._pushes.append(push)
        self._counters.accepted += 1
        if id_from_sender and self._ids.seen_before(id):
            self._counters.duplicates += 1
        if self._journal is not None:
            self._journal.add(push)

    def clear(self) -> None:
        """Remove all pushes; the counters stay."""
        self._pushes.clear()

    def __len__(self) -> int:
        return len(self._pushes)

    @property
    def tokens_issued(self) -> int:
        """The number of OAuth access tokens issued since the emulator started."""
        return self._counters.access_tokens_issued

    def find(
        self,
        *,
        token: str | None = None,
        provider: str | None = None,
        environment: str | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """The pushes that match, oldest first, each as `GET /inbox` returns it.

        `token` also matches in lower case. With `limit` only the newest so many are returned.
        """
        tokens = None if token is None else {token.encode(), token.lower().encode()}
        found: list[AcceptedPush] = []
        for push in reversed(self._pushes):
            if limit is not None and len(found) >= limit:
                break
            if (
                (tokens is None or push.token in tokens)
                and (provider is None or push.provider == provider)
                and (environment is None or push.environment == environment)
            ):
                found.append(push)
        return [push.as_json() for push in reversed(found)]


class _RecentIds:
    """The 64-bit hashes of recent ids: of at least the last `size` / 2, and of at most `size`."""

    def __init__(self, size: int) -> None:
        self._half = size // 2
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def seen_before(self, id: bytes) -> bool:
        """Whether this id is a recent one; it is one from now on."""
        hashed = hash(id)
        if hashed in self._newer or hashed in self._older:
            return True
        self._newer.add(hashed)
        if len(self._newer) > self._half:
            self._older, self._newer = self._newer, set()
        return False
