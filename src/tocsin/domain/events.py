"""The five events, as the platform's backends hand them in.

The types are the schema: decoding validates, and errors carry a JSON path. An event is decoded once; what travels
on is an `Event` whose `body` is its canonical JSON (field order of the document, UUIDs in lower case).
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Annotated, Any, Final, NewType
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tocsin.domain.payloads import sendable

EventId = NewType("EventId", str)
UserId = NewType("UserId", str)

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
UnixSeconds = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class _Message(Struct, tag_field="message", forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    owner: UUID
    event_id: UUID | UnsetType = UNSET


class FaxNew(_Message, tag="fax_new", kw_only=True):
    """A new fax has been received."""

    fax: UUID
    phone: str
    page_count: Count


class RecordingNew(_Message, tag="recording_new", kw_only=True):
    """A new recording has been received."""

    recording: UUID
    phone: str


class DialplanCallreverseStart(_Message, tag="dialplan_callreverse_start", kw_only=True):
    """A call-reverse function has been started."""

    phone_from: str
    phone_to: str


class DialplanCallreverseStop(_Message, tag="dialplan_callreverse_stop", kw_only=True):
    """A call-reverse function has been stopped."""

    phone_from: str
    phone_to: str


class ChatMessage(_Message, tag="chat_message", kw_only=True):
    """A chat message. `text` belongs to `type` = `text`; other types bring fields of their own."""

    chat: UUID
    uuid: UUID
    time: UnixSeconds
    user: UUID
    user_name: str
    type: str
    text: str | UnsetType = UNSET


class _OpenChatMessage(Struct, kw_only=True):
    """The fields that every chat message has, for one of a type whose own fields are passed through."""

    owner: UUID
    chat: UUID
    uuid: UUID
    time: UnixSeconds
    user: UUID
    user_name: str
    type: str
    event_id: UUID | UnsetType = UNSET


Message = FaxNew | RecordingNew | DialplanCallreverseStart | DialplanCallreverseStop | ChatMessage

MESSAGES: Final = (
    "fax_new",
    "recording_new",
    "dialplan_callreverse_start",
    "dialplan_callreverse_stop",
    "chat_message",
)
URGENT: Final = frozenset({"dialplan_callreverse_start", "dialplan_callreverse_stop"})
"""Events about a call in progress: they overtake the others, and are worthless a minute later."""


class Event(Struct, frozen=True, gc=False):
    """One event on its way: accepted at `accepted_ms`, worthless after `expires_ms` (Unix milliseconds)."""

    id: EventId
    owner: UserId
    message: str
    accepted_ms: int
    expires_ms: int
    body: bytes

    @property
    def urgent(self) -> bool:
        return self.message in URGENT


class HandedIn(Struct, frozen=True, gc=False):
    """A valid event as a producer handed it in; `event_id` only where the producer gave one.

    `digest` then tells two contents apart that come with the same id: 16 bytes, in hex.
    """

    event_id: EventId | None
    owner: UserId
    message: str
    body: bytes
    digest: str | None = None


class EventError(ValueError):
    """An event breaks the schema. `at` is a JSON path (`$.page_count`); `reason` never quotes the content."""

    def __init__(self, at: str, reason: str) -> None:
        super().__init__(f"{at}: {reason}")
        self.at = at
        self.reason = reason


_decoder = msgspec.json.Decoder(Message)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode

_AT = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<at>[^`]+)`)?$", re.DOTALL)
_FIELD = re.compile(r"(?P<prefix>Object (?:missing required|contains unknown) field) `(?P<field>[^`]*)`")
_OWNER_BYTES = len(b'"owner":"9aed5e94-3803-11e3-8475-0024e8f90cc0"')
_OWNER_VALUE = slice(len(b'{"owner":"'), len(b'{"owner":"') + 36)
# Keys that Google keeps for itself (FCM, "Message", data), and the one that is Apple's.
_RESERVED = frozenset({"from", "message_type", "gcm", "aps"})
_RESERVED_PREFIXES = ("google.", "gcm.")


def parse_event(raw: bytes | bytearray | memoryview) -> HandedIn:
    """Validate one event as JSON.

    Raises:
        EventError: the event breaks the schema, or cannot be made to fit the providers' limits.
    """
    try:
        message = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        return _parse_open_chat_message(raw, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventError("$", f"not valid JSON: {error}") from None
    if type(message) is ChatMessage and message.type == "text" and message.text is UNSET:
        raise EventError("$.text", "missing: a chat message of type `text` has a text")
    event_id = message.event_id
    if event_id is not UNSET:
        message.event_id = UNSET
    body = _owner_first(_encode(message))
    return _fitting(event_id, message.__struct_config__.tag, body)


def digest(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()


def _fitting(event_id: UUID | UnsetType, message: str, body: bytes) -> HandedIn:
    try:
        kept = sendable(body)
    except ValueError as error:
        raise EventError("$", str(error)) from None
    owner = UserId(body[_OWNER_VALUE].decode())
    if event_id is UNSET:
        return HandedIn(None, owner, message, kept)
    return HandedIn(EventId(str(event_id)), owner, message, kept, digest(body))


def _owner_first(encoded: bytes) -> bytes:
    """msgspec writes the tag first; the document writes `owner` before `message`. Both have known lengths."""
    tag_end = encoded.index(b",", 1) + 1
    owner_end = tag_end + _OWNER_BYTES
    return b"{" + encoded[tag_end:owner_end] + b"," + encoded[1 : tag_end - 1] + encoded[owner_end:]


def _parse_open_chat_message(raw: bytes | bytearray | memoryview, error: msgspec.ValidationError) -> HandedIn:
    """A chat message of a type that is not `text` brings fields of its own: they are passed through as they are."""
    try:
        fields = _object_decoder.decode(raw)
    except msgspec.MsgspecError:
        raise _event_error(error) from None
    kind = fields.get("type")
    if fields.get("message") != "chat_message" or kind == "text" or not isinstance(kind, str):
        raise _event_error(error) from None
    try:
        known = msgspec.convert(fields, _OpenChatMessage)
    except msgspec.ValidationError as own_error:
        raise _event_error(own_error) from None
    for key in fields:
        if key in _RESERVED or key.startswith(_RESERVED_PREFIXES):
            raise EventError(f"$.{key}", "reserved by the providers")
    canonical = {
        "owner": known.owner,
        "message": "chat_message",
        "chat": known.chat,
        "uuid": known.uuid,
        "time": known.time,
        "user": known.user,
    } | {key: value for key, value in fields.items() if key not in _CANONICAL}
    return _fitting(known.event_id, "chat_message", _encode(canonical))


_CANONICAL = frozenset({"owner", "message", "chat", "uuid", "time", "user", "event_id"})


def _event_error(error: msgspec.ValidationError) -> EventError:
    """msgspec's message as a path and a reason: a missing field is named by its own path."""
    match = _AT.match(str(error))
    assert match is not None
    reason, at = match["reason"], match["at"] or "$"
    if field := _FIELD.match(reason):
        at = f"{at}.{field['field']}"
        reason = "missing" if "missing" in field["prefix"] else "unknown field"
    elif reason.startswith("Invalid value "):
        # msgspec quotes an unknown tag; the content of an event is never echoed.
        reason = f"unknown event; one of {', '.join(MESSAGES)}"
    return EventError(at, reason)
