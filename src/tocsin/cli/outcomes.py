"""Outcomes of deliveries and attempts in words for people. Programs get the names of the API."""

from __future__ import annotations

from typing import Final

_WORDS: Final = {"delivered": "accepted by the provider", "accepted": "not tried yet"}
"""Those whose names say more, or something else, than is known of the push."""


def in_words(outcome: str) -> str:
    """The outcome as a table shows it."""
    return _WORDS.get(outcome, outcome)
