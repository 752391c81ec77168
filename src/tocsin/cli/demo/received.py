"""The pushes that phones received, read from the emulator's inbox."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from tocsin.cli.demo.events import notification
from tocsin.providers.fcm.address import NAME as FCM


class ReceivedPush(Struct, frozen=True):
    """One push that a phone received, at `time` (Unix seconds)."""

    provider: str
    environment: str | None
    token: str
    headers: dict[str, str]
    content: dict[str, Any]
    time: float

    @property
    def event(self) -> str:
        """The name of the event."""
        return str(self.content.get("message", ""))

    @property
    def notification(self) -> str:
        """What the app would show."""
        return notification(self.content)

    def as_json(self) -> dict[str, Any]:
        """The push as `--json` prints it."""
        return {
            "event": self.event,
            "provider": self.provider,
            "environment": self.environment,
            "token": self.token,
            "headers": self.headers,
            "content": self.content,
        }


class InboxReader:
    """Reads the inbox again and again, and returns what is new. `received` is everything so far."""

    def __init__(self, inbox: Callable[[], Sequence[dict[str, Any]]]) -> None:
        self._inbox = inbox
        self._seen: set[tuple[str, str, str]] = set()
        self.received: list[ReceivedPush] = []

    def read_new(self) -> list[ReceivedPush]:
        """The pushes that were received since the last call."""
        new = []
        for entry in self._inbox():
            identity = (entry["provider"], entry["token"], entry["id"])
            if identity not in self._seen:
                self._seen.add(identity)
                new.append(_push(entry))
        self.received += new
        return new

    @property
    def reached(self) -> set[tuple[str, str]]:
        """Every (event, device token) that was received so far."""
        return {(push.event, push.token) for push in self.received}


def _push(entry: dict[str, Any]) -> ReceivedPush:
    """The content is the body of an APNs request, or `message.data` of an FCM one."""
    body = entry["body"]
    content = body["message"]["data"] if entry["provider"] == FCM else body
    return ReceivedPush(
        entry["provider"], entry["environment"], entry["token"], entry["headers"], content, entry["time"]
    )
