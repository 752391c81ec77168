"""The events that the producers sent, and how each was answered: accepted, refused, or not at all."""

from __future__ import annotations

import random
import time
import uuid
from typing import Any

import msgspec
from msgspec import Struct


class SentEvent(Struct, eq=False):
    """One event. Its marker is a field of its content, by which it is recognized when it arrives."""

    marker: str
    owner: str
    message: str
    body: bytes
    event_id: str | None
    """The producer's own id, or the one that the 202 gave."""
    sent_at: float = 0.0
    accepted_at: float | None = None
    unanswered: bool = False
    """At least once it was sent completely, and no response came."""
    invalid: bool = False
    """It must never be accepted, even where its connection was cut."""
    on_the_bus: bool = False
    """A stream has accepted it; when tocsin takes it is not known."""


class SentEvents:
    """Every event of a run, and what the producers counted."""

    def __init__(self) -> None:
        self.events: list[SentEvent] = []
        self.counts: dict[str, int] = {}
        self.wrong_responses: list[str] = []

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def make(self, owner: str, rng: random.Random, *, with_id: bool) -> SentEvent:
        """A random event for `owner`, with or without a producer's own id."""
        marker = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        message, fields = _content(marker, rng)
        event_id = str(uuid.UUID(int=rng.getrandbits(128), version=4)) if with_id else None
        own = {"event_id": event_id} if event_id else {}
        body = msgspec.json.encode({"owner": owner, "message": message} | fields | own)
        event = SentEvent(marker, owner, message, body, event_id)
        self.events.append(event)
        return event

    def accepted(self, events: list[SentEvent], ids: list[str]) -> None:
        """Note a 202 and the ids that it gave."""
        now = time.time()
        if len(ids) != len(events):
            self.wrong_responses.append(f"202 for {len(events)} events has {len(ids)} ids")
        for event, id in zip(events, ids, strict=False):
            if event.invalid:
                self.wrong_responses.append(f"{event.event_id or event.marker}: invalid, and answered with 202")
            if event.event_id is not None and event.event_id != id:
                self.wrong_responses.append(f"{event.event_id}: answered with another id, {id}")
            event.event_id = id
            if event.accepted_at is None:
                event.accepted_at = now

    def unknown(self, events: list[SentEvent], ids: list[str]) -> None:
        """Note a 503 that does not know whether they were accepted: they are repeated with the ids that it gave."""
        if len(ids) != len(events):
            self.wrong_responses.append(f"outcome-unknown for {len(events)} events has {len(ids)} ids")
        for event, id in zip(events, ids, strict=False):
            if event.event_id is not None and event.event_id != id:
                self.wrong_responses.append(f"{event.event_id}: outcome-unknown with another id, {id}")
            event.event_id, event.unanswered = id, True
            event.body = msgspec.json.encode(msgspec.json.decode(event.body) | {"event_id": id})


def marker_of(data: dict[str, Any]) -> str:
    """The marker in the content of a push."""
    return str(data.get("fax") or data.get("recording") or data.get("phone_from") or data.get("uuid"))


def _content(marker: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    kind = rng.randrange(6)
    if kind == 0:
        return "recording_new", {"recording": marker, "phone": "+492215587412"}
    if kind == 1:
        name = rng.choice(("dialplan_callreverse_start", "dialplan_callreverse_stop"))
        return name, {"phone_from": marker, "phone_to": "+492216698000"}
    if kind == 2:
        other = "52a9fd3c-8aad-11e0-9138-0024e8f90cc0"
        text = "what's for lunch today? " * rng.randint(1, 10)
        fields = {"chat": other, "uuid": marker, "time": 1362407297, "user": other, "user_name": "John Doe"}
        return "chat_message", fields | {"type": "text", "text": text}
    return "fax_new", {"fax": marker, "phone": "", "page_count": rng.randint(0, 9)}
