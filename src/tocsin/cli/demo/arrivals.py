"""What arrives at the phones, as the emulator's inbox tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from tocsin.cli.demo.cast import PEOPLE, Person, Phone, understood


class Arrival(Struct, frozen=True):
    """One push that a phone received, at `time` (Unix seconds)."""

    provider: str
    environment: str | None
    token: str
    headers: dict[str, str]
    content: dict[str, Any]
    time: float

    @property
    def event(self) -> str:
        return str(self.content.get("message", ""))

    @property
    def understood(self) -> str:
        return understood(self.content)

    def as_json(self) -> dict[str, Any]:
        return {
            "event": self.event,
            "provider": self.provider,
            "environment": self.environment,
            "token": self.token,
            "headers": self.headers,
            "content": self.content,
        }


class Watch:
    """Reads the inbox again and again, and hands out what is new. `arrivals` is everything so far."""

    def __init__(self, inbox: Callable[[], Sequence[dict[str, Any]]]) -> None:
        self._inbox = inbox
        self._seen: set[tuple[str, str, str]] = set()
        self.arrivals: list[Arrival] = []

    def look(self) -> list[Arrival]:
        new = []
        for entry in self._inbox():
            known_by = (entry["provider"], entry["token"], entry["id"])
            if known_by not in self._seen:
                self._seen.add(known_by)
                new.append(_arrival(entry))
        self.arrivals += new
        return new

    @property
    def rung(self) -> set[tuple[str, str]]:
        """Every (event, device token) that has arrived."""
        return {(arrival.event, arrival.token) for arrival in self.arrivals}


def holder_of(token: str) -> tuple[Person, Phone] | None:
    """Whose phone it is."""
    for person in PEOPLE:
        for phone in person.phones:
            if phone.token == token:
                return person, phone
    return None


def _arrival(entry: dict[str, Any]) -> Arrival:
    """The content is the APNs body, or FCM's `message.data`."""
    body = entry["body"]
    content = body["message"]["data"] if entry["provider"] == "fcm" else body
    return Arrival(entry["provider"], entry["environment"], entry["token"], entry["headers"], content, entry["time"])
