"""The events that tocsin takes, as a backend writes them.

Each class is one form of an event of the published schema (`POST /api/events` in tocsin's OpenAPI document), with the
same names and types. Nothing is checked here but the types: the server checks, and its errors name the field.

A UUID may be given as `uuid.UUID` or as text. `event_id` is the caller's own id for an event: repeated within 24 hours
with the same content, it is delivered once. Without it the client makes one, so that it can repeat a request safely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final
from uuid import UUID

Id = UUID | str


@dataclass(frozen=True, kw_only=True)
class Event:
    """What every event has: the user whose devices receive it, and an id."""

    message: ClassVar[str]
    owner: Id
    event_id: Id | None = None

    def body(self) -> dict[str, Any]:
        """The event as JSON values, with `message`; `event_id` only where it is set."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != _OWN}
        if values["event_id"] is None:
            del values["event_id"]
        texts = {name: str(value) if isinstance(value, UUID) else value for name, value in values.items()}
        return {"message": self.message, **texts}


@dataclass(frozen=True, kw_only=True)
class FaxNew(Event):
    """A new fax has been received. `phone` is the sender's number; empty where it is withheld."""

    message = "fax_new"
    fax: Id
    phone: str
    page_count: int


@dataclass(frozen=True, kw_only=True)
class RecordingNew(Event):
    """A new recording has been received. `phone` is the caller's number; empty where it is withheld."""

    message = "recording_new"
    recording: Id
    phone: str


@dataclass(frozen=True, kw_only=True)
class DialplanCallreverseStart(Event):
    """A call-reverse function has been started: from the caller's number to the called number."""

    message = "dialplan_callreverse_start"
    phone_from: str
    phone_to: str


@dataclass(frozen=True, kw_only=True)
class DialplanCallreverseStop(Event):
    """A call-reverse function has been stopped."""

    message = "dialplan_callreverse_stop"
    phone_from: str
    phone_to: str


@dataclass(frozen=True, kw_only=True)
class _Chat(Event):
    message = "chat_message"
    chat: Id
    uuid: Id
    time: int
    user: Id
    user_name: str


@dataclass(frozen=True, kw_only=True)
class TextMessage(_Chat):
    """A chat message with a text. `time` is in Unix seconds; `user` and `user_name` are who wrote it."""

    text: str
    type: str = field(default="text", init=False)


@dataclass(frozen=True, kw_only=True)
class ChatMessage(_Chat):
    """A chat message of another type than `text`. Its own fields (JSON values) reach the app as they are:
    `ChatMessage(..., type="location", own={"latitude": 50.94, "longitude": 6.96})`.

    Raises:
        ValueError: the type is `text`, or a field of its own has the name of another field.
    """

    type: str
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.type == "text":
            raise ValueError("type: a chat message of the type `text` is a TextMessage")
        taken = sorted({"message", *(item.name for item in fields(self))} & set(self.own))
        if taken:
            raise ValueError(f"own: {', '.join(taken)}: the name of another field of the event")

    def body(self) -> dict[str, Any]:
        return {**super().body(), **self.own}


_OWN: Final = "own"
EVENTS: Final = (FaxNew, RecordingNew, DialplanCallreverseStart, DialplanCallreverseStop, TextMessage, ChatMessage)
"""Every form of an event."""
