"""Counts of everything, for `GET /stats`."""

from __future__ import annotations

from collections import Counter
from typing import Any

Answer = tuple[str, str | None, int, str]
"""Provider, environment, HTTP status (0: none was sent), reason."""


class Tally:
    def __init__(self) -> None:
        self.answers: Counter[Answer] = Counter()
        self.accepted = 0
        self.duplicates = 0
        """Pushes whose apns-id had been accepted before."""
        self.access_tokens_issued = 0
        self.provider_tokens_verified = 0
        """Signatures checked; every later use of the same token is a look-up."""
        self.opened: Counter[str] = Counter()
        """Connections, by listener."""

    def count(self, provider: str, environment: str | None, status: int, reason: str) -> None:
        self.answers[provider, environment, status, reason] += 1

    def as_json(self) -> dict[str, Any]:
        answers = sorted(self.answers.items(), key=lambda item: tuple(str(part) for part in item[0]))
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "access_tokens_issued": self.access_tokens_issued,
            "provider_tokens_verified": self.provider_tokens_verified,
            "answers": [
                {"provider": provider, "environment": environment, "status": status, "reason": reason, "count": count}
                for (provider, environment, status, reason), count in answers
            ],
        }
