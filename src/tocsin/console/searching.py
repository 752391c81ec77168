"""The conditions of a search or of a bulk action, from a form to the admin API and back.

A device token never stands in an address: browsers keep those, and proxies log them. It stays in the session under a
random name, and the address has the name.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

from tocsin.console.sessions import Session

OUTCOMES: Final = ("accepted", "waiting", "delivered", "refused", "expired", "token_dead", "cancelled", "no_device")
LETTER_OUTCOMES: Final = ("refused", "expired")
SYSTEMS: Final = ("apns", "fcm")
_TIMES: Final = ("from", "until")
_MOST_HELD: Final = 50


class Conditions:
    """Conditions by their names, as they stand in a form. Empty ones are left out."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.given = {name: value.strip() for name, value in given.items() if value and value.strip()}

    def __getitem__(self, name: str) -> str:
        """What a field of the form shows; empty where nothing was given."""
        return self.given.get(name, "")

    def __bool__(self) -> bool:
        return bool(self.given)

    def body(self) -> dict[str, object]:
        """As the admin API takes them. Times without a zone are UTC.

        Raises:
            ValueError: a time cannot be read; the message names the field.
        """
        body: dict[str, object] = dict(self.given)
        for name in _TIMES:
            if name in body:
                body[name] = _time(name, self.given[name])
        return body

    def letters_sought(self) -> dict[str, object]:
        """As a search for the dead letters that a bulk action with these conditions would take.

        Raises:
            ValueError: as `body`.
        """
        body = self.body()
        for name in _TIMES:
            if name in body:
                body[f"at_{name}"] = body.pop(name)
        return body | {"state": ["dead"], "outcome": [body["outcome"]] if "outcome" in body else list(LETTER_OUTCOMES)}

    def query(self, **more: str | None) -> str:
        """As they stand in an address."""
        return urlencode(self.given | {name: value for name, value in more.items() if value})


def conditions(given: Mapping[str, str], names: Iterable[str]) -> Conditions:
    """Those of `names` that are given."""
    return Conditions({name: given.get(name, "") for name in names})


def hold(session: Session, token: str) -> str:
    """Keep a device token for the session's later requests; returns the name it has in addresses."""
    for name, kept in session.held.items():
        if kept == token:
            return name
    while len(session.held) >= _MOST_HELD:
        del session.held[next(iter(session.held))]
    name = secrets.token_urlsafe(6)
    session.held[name] = token
    return name


def _time(name: str, text: str) -> str:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name}: not a time; write it as 2026-11-26T21:00") from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
