"""The counters that `GET /stats` shows."""

from __future__ import annotations

from collections import Counter
from typing import Any

AnswerKey = tuple[str, str | None, int, str]
"""Provider, environment, HTTP status (0: no answer was sent), reason."""


class Counters:
    """Counts since the emulator started."""

    def __init__(self) -> None:
        self.answers: Counter[AnswerKey] = Counter()
        self.accepted = 0
        """Accepted pushes."""
        self.duplicates = 0
        """Accepted pushes whose `apns-id` had been accepted before."""
        self.access_tokens_issued = 0
        self.provider_tokens_verified = 0
        """Provider tokens whose signature was verified; a token that was verified before is not counted again."""
        self.connections_opened: Counter[str] = Counter()
        """By the name of the endpoint."""

    def count_answer(self, provider: str, environment: str | None, status: int, reason: str) -> None:
        """Count one answer; `status` 0 is for a request that gets none."""
        self.answers[provider, environment, status, reason] += 1

    def as_json(self) -> dict[str, Any]:
        """The counters as `GET /stats` returns them, without those of connections."""
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
