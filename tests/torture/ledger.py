"""What was handed in, and what is known of it: accepted, refused, or unanswered."""

from __future__ import annotations

import random
import time
import uuid
from typing import Any

import msgspec
from msgspec import Struct


class HandedIn(Struct, eq=False):
    """One event. Its marker is a field of its own content, so that it is known again wherever it arrives."""

    marker: str
    owner: str
    message: str
    body: bytes
    event_id: str | None
    """The producer's own id, or the one that the 202 gave."""
    sent: float = 0.0
    accepted: float | None = None
    unanswered: bool = False
    """At least once the whole of it was sent, and no answer came."""
    invalid: bool = False
    """It must never be accepted, whatever became of its connection."""


class Ledger:
    def __init__(self) -> None:
        self.events: list[HandedIn] = []
        self.answers: dict[str, int] = {}
        self.wrong: list[str] = []
        """Answers that must not be."""

    def note(self, what: str, count: int = 1) -> None:
        self.answers[what] = self.answers.get(what, 0) + count

    def make(self, owner: str, dice: random.Random, *, with_id: bool) -> HandedIn:
        """A random event for `owner`, with or without an id of the producer's own."""
        marker = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        message, fields = _content(marker, dice)
        event_id = str(uuid.UUID(int=dice.getrandbits(128), version=4)) if with_id else None
        own = {"event_id": event_id} if event_id else {}
        body = msgspec.json.encode({"owner": owner, "message": message} | fields | own)
        event = HandedIn(marker, owner, message, body, event_id)
        self.events.append(event)
        return event

    def accepted(self, events: list[HandedIn], ids: list[str]) -> None:
        now = time.time()
        if len(ids) != len(events):
            self.wrong.append(f"202 for {len(events)} events has {len(ids)} ids")
        for event, id in zip(events, ids, strict=False):
            if event.invalid:
                self.wrong.append(f"{event.event_id or event.marker}: invalid, and answered with 202")
            if event.event_id is not None and event.event_id != id:
                self.wrong.append(f"{event.event_id}: answered with another id, {id}")
            event.event_id = id
            if event.accepted is None:
                event.accepted = now


def marker_of(data: dict[str, Any]) -> str:
    """The marker in what arrived."""
    return str(data.get("fax") or data.get("recording") or data.get("phone_from") or data.get("uuid"))


def _content(marker: str, dice: random.Random) -> tuple[str, dict[str, Any]]:
    kind = dice.randrange(6)
    if kind == 0:
        return "recording_new", {"recording": marker, "phone": "+492215587412"}
    if kind == 1:
        name = dice.choice(("dialplan_callreverse_start", "dialplan_callreverse_stop"))
        return name, {"phone_from": marker, "phone_to": "+492216698000"}
    if kind == 2:
        other = "52a9fd3c-8aad-11e0-9138-0024e8f90cc0"
        text = "what's for lunch today? " * dice.randint(1, 10)
        fields = {"chat": other, "uuid": marker, "time": 1362407297, "user": other, "user_name": "John Doe"}
        return "chat_message", fields | {"type": "text", "text": text}
    return "fax_new", {"fax": marker, "phone": "", "page_count": dice.randint(0, 9)}
