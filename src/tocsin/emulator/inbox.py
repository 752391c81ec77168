"""What arrived: the newest pushes in memory, counts of everything, and a journal on disk where one is wanted."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from tocsin.http2.messages import Header

_JOURNAL_EVERY_S = 0.1


class Arrived(Struct, frozen=True):
    """One accepted push. Kept as it came; parsed when somebody looks."""

    time: float
    provider: str
    environment: str | None
    token: str
    id: str
    headers: Sequence[Header]
    body: bytes

    def as_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "environment": self.environment,
            "token": self.token,
            "id": self.id,
            "headers": {name.decode(): value.decode("latin-1") for name, value in self.headers},
            "body": msgspec.json.decode(self.body),
            "time": self.time,
        }


class Inbox:
    def __init__(self, size: int, journal: Path | None, *, journal_bodies: bool) -> None:
        self._arrived: deque[Arrived] = deque(maxlen=size)
        self._journal: IO[bytes] | None = journal.open("ab") if journal else None
        self._journal_bodies = journal_bodies
        self._lines: list[bytes] = []
        self._counts: Counter[tuple[str, str, int, str]] = Counter()
        self.accepted = 0
        self.tokens_issued = 0

    def accept(
        self, provider: str, environment: str | None, token: bytes, id: bytes, headers: Sequence[Header], body: bytes
    ) -> None:
        now = time.time()
        text, name = token.decode(), id.decode()
        self._arrived.append(Arrived(now, provider, environment, text, name, headers, body))
        self.accepted += 1
        if self._journal is not None:
            entry: dict[str, Any] = {"t": round(now, 3), "p": provider, "env": environment, "token": text, "id": name}
            if self._journal_bodies:
                entry["body"] = msgspec.Raw(body)
            self._lines.append(msgspec.json.encode(entry))

    def count(self, provider: str, environment: str | None, status: int, reason: str) -> None:
        self._counts[provider, environment or "", status, reason] += 1

    def flush(self) -> None:
        """Called every tenth of a second, so that a crash test finds on disk what was answered before it."""
        if self._journal is not None and self._lines:
            lines, self._lines = self._lines, []
            self._journal.write(b"\n".join(lines) + b"\n")
            self._journal.flush()

    def close(self) -> None:
        self.flush()
        if self._journal is not None:
            self._journal.close()

    def clear(self) -> None:
        self._arrived.clear()

    def find(self, *, token: str | None = None, provider: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        """The newest `limit` that match, newest last."""
        found: list[dict[str, Any]] = []
        for arrived in reversed(self._arrived):
            if len(found) >= limit:
                break
            if (token is None or arrived.token == token) and (provider is None or arrived.provider == provider):
                found.append(arrived.as_json())
        found.reverse()
        return found

    def stats(self) -> dict[str, Any]:
        answers = [
            {
                "provider": provider,
                "environment": environment or None,
                "status": status,
                "reason": reason,
                "count": count,
            }
            for (provider, environment, status, reason), count in sorted(self._counts.items())
        ]
        return {"accepted": self.accepted, "access_tokens_issued": self.tokens_issued, "answers": answers}
