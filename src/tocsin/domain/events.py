"""The five events as producers send them, and how one is parsed.

The Structs are the schema, and the only place that states it: decoding validates, errors carry a JSON path, and the
OpenAPI document and the options of `tocsin send` are derived from them (`event_schema`). The fields are those of the
platform's document, in its order.

An event is decoded once. What is stored and delivered is its canonical JSON: the order of the document, UUIDs in lower
case, a chat message's own fields by name. What a provider can take (size, reserved names) is the provider's to check.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NewType
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tocsin.domain.json_errors import (
    NOT_ALLOWED,
    TOO_DEEP,
    broken_rule,
    nested_too_deeply,
    not_json,
    quotable_name,
    too_deep,
    undecodable,
)

EventId = NewType("EventId", str)
UserId = NewType("UserId", str)

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
UnixSeconds = Annotated[int, Meta(ge=0, le=2**53 - 1)]


def _about(description: str, *examples: str | int) -> Meta:
    return Meta(description=description, examples=list(examples) or None)


class Message(Struct, tag_field="message", forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """The fields that every event has."""

    owner: Annotated[UUID, _about("The user whose devices receive it.", "9aed5e94-3803-11e3-8475-0024e8f90cc0")]
    event_id: Annotated[
        UUID | UnsetType,
        _about("Your own id for it: repeated within 24 hours, it is delivered once. Without it, tocsin makes one."),
    ] = UNSET


class FaxNew(Message, tag="fax_new", kw_only=True):
    """A new fax has been received."""

    fax: Annotated[UUID, _about("The new fax.", "af729cc0-3251-11e2-81c1-0800200c9a66")]
    phone: Annotated[str, _about("The sender's number; empty where it is withheld.", "+492215587412")]
    page_count: Annotated[Count, _about("The number of pages.", 2)]


class RecordingNew(Message, tag="recording_new", kw_only=True):
    """A new recording has been received."""

    recording: Annotated[UUID, _about("The new recording.", "af729cc0-3251-11e2-81c1-0800200c9a66")]
    phone: Annotated[str, _about("The caller's number; empty where it is withheld.", "+492215587412")]


class _CallReverse(Message, kw_only=True):
    phone_from: Annotated[
        str, _about("The caller's number (origination); empty where it is withheld.", "+4989123248278")
    ]
    phone_to: Annotated[str, _about("The called number (destination); empty where it is withheld.", "+492216698000")]


class DialplanCallreverseStart(_CallReverse, tag="dialplan_callreverse_start", kw_only=True):
    """A call-reverse function has been started."""


class DialplanCallreverseStop(_CallReverse, tag="dialplan_callreverse_stop", kw_only=True):
    """A call-reverse function has been stopped."""


class ChatMessage(Message, tag="chat_message", kw_only=True, forbid_unknown_fields=False):
    """A chat message is delivered to a user.

    A type other than `text` brings fields of its own, which are passed through as they are.
    """

    chat: Annotated[UUID, _about("The chat.", "52a9fd3c-8aad-11e0-9138-0024e8f90cc0")]
    uuid: Annotated[UUID, _about("The message.", "c1aa1566-84d7-11e2-a7a8-0024e8f90cc0")]
    time: Annotated[UnixSeconds, _about("When it was written, in Unix seconds.", 1362407297)]
    user: Annotated[UUID, _about("Who wrote it.", "1de7257a-4f34-11e0-ab6e-0024e8f90cc1")]
    user_name: Annotated[str, _about("The full name of who wrote it.", "John Doe")]
    type: Annotated[str, _about("The type of chat message."), Meta(extra_json_schema={"not": {"enum": ["text"]}})]


class TextMessage(ChatMessage, tag="chat_message", kw_only=True, forbid_unknown_fields=True):
    """A chat message of type `text` is delivered to a user."""

    type: Annotated[Literal["text"], _about("The type of chat message.", "text")]
    text: Annotated[str, _about("The text, for the type `text`.", "what's for lunch today?")]


VARIANTS: Final[tuple[type[Message], ...]] = (
    FaxNew,
    RecordingNew,
    DialplanCallreverseStart,
    DialplanCallreverseStop,
    TextMessage,
    ChatMessage,
)
"""Every form of an event. `chat_message` has two: `TextMessage`, and `ChatMessage` for all other types."""


def message_of(variant: type[Struct]) -> str:
    """The value of `message` that stands for this form of an event."""
    return str(variant.__struct_config__.tag)


MESSAGES: Final[tuple[str, ...]] = tuple(dict.fromkeys(map(message_of, VARIANTS)))
URGENT: Final = frozenset(map(message_of, (DialplanCallreverseStart, DialplanCallreverseStop)))
"""Events about a call in progress: they go before the others, and their lifetime is a minute by default."""


class Event(Struct, frozen=True, gc=False):
    """One ingested event: accepted at `accepted_ms`, not delivered after `expires_ms` (Unix milliseconds). `trace` is
    the `traceparent` (W3C Trace Context) of its ingestion where it is traced, empty where it is not."""

    id: EventId
    owner: UserId
    message: str
    accepted_ms: int
    expires_ms: int
    body: bytes
    trace: bytes = b""

    @property
    def urgent(self) -> bool:
        return self.message in URGENT


class ParsedEvent(Struct, frozen=True, gc=False):
    """A valid event as its producer sent it; `event_id` only where the producer gave one.

    `body` is the event's canonical JSON, without the id. `own_fields` are the names of the fields that a chat message
    of a type other than `text` brought with it; empty for all others.
    """

    event_id: EventId | None
    owner: UserId
    message: str
    body: bytes
    own_fields: tuple[str, ...] = ()


class EventError(ValueError):
    """An event breaks the schema. `at` is a JSON path (`$.page_count`); `reason` never quotes the content."""

    def __init__(self, at: str, reason: str) -> None:
        super().__init__(f"{at}: {reason}")
        self.at = at
        self.reason = reason


class _OnlyText(Struct, gc=False):
    """Only an event's `text`, undecoded: everything else is skipped, which takes a nanosecond for each byte."""

    text: Raw | UnsetType = UNSET


# All but `ChatMessage`, which has its tag in common with `TextMessage`: other types are parsed in a second step.
_Closed = FaxNew | RecordingNew | DialplanCallreverseStart | DialplanCallreverseStop | TextMessage

_decode = msgspec.json.Decoder(_Closed).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_text = msgspec.json.Decoder(_OnlyText).decode
_encode = msgspec.json.Encoder().encode
_encode_by_name = msgspec.json.Encoder(order="deterministic").encode

MOST_BESIDE_TEXT_BYTES: Final = 32 * 1024
"""So long may an event's JSON be without its `text`, which is shortened where it is too long. The providers take 4096
bytes in all, each of which takes six at most as JSON (`\\u0041`); the rest is for white space. Decoding so much takes
at most some milliseconds, whatever it is."""

_OWNER_BYTES: Final = len(b'"owner":"9aed5e94-3803-11e3-8475-0024e8f90cc0"')
_OWNER_VALUE: Final = slice(len(b'{"owner":"'), len(b'{"owner":"') + 36)
_CHAT_FIELDS: Final = frozenset({"message", *ChatMessage.__struct_fields__})
_NESTING: Final = (dict, list)
_INTEGERS: Final = {FaxNew: "page_count", TextMessage: "time", ChatMessage: "time"}


def parse_event(raw: bytes | bytearray | memoryview) -> ParsedEvent:
    """Validate one event as JSON.

    Raises:
        EventError: the event breaks the schema.
    """
    try:
        message = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _parse_unusual(bytes(raw), error)
    return _parsed(message, message.__struct_config__.tag)


def _parsed(message: Message, name: str, own: dict[str, Any] | None = None) -> ParsedEvent:
    event_id = message.event_id
    if event_id is not UNSET:
        message.event_id = UNSET
    encoded = _encode(message)
    # msgspec writes the tag first; the document writes `owner` before `message`. `owner` has a known length.
    tag_end = encoded.index(b",", 1) + 1
    owner_end = tag_end + _OWNER_BYTES
    body = b"{" + encoded[tag_end:owner_end] + b"," + encoded[1 : tag_end - 1] + encoded[owner_end:]
    if own:
        # By name, at every level: two events that differ in the order of fields alone are the same event.
        body = body[:-1] + b"," + _encode_by_name(own)[1:]
    return ParsedEvent(
        None if event_id is UNSET else EventId(str(event_id)),
        UserId(body[_OWNER_VALUE].decode()),
        name,
        body,
        tuple(own) if own else (),
    )


def _parse_unusual(raw: bytes, error: Exception) -> ParsedEvent:
    """Parse what may be an event all the same: a chat message of a type other than `text`, or an event whose integer is
    written as `2.0`, which is an integer in JSON Schema. `error` is why the first attempt failed."""
    _check_length(raw)
    try:
        fields = _decode_object(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise EventError(*undecodable(raw)) from None
    variant = _variant_of(fields)
    whole = variant is not None and _read_integer(fields, variant)
    if variant is None or not (whole or issubclass(variant, ChatMessage)):
        if isinstance(error, msgspec.ValidationError):
            raise _event_error(error) from None
        raise EventError(*undecodable(raw)) from None
    try:
        message = msgspec.convert(fields, variant)
    except msgspec.ValidationError as own_error:
        raise _event_error(own_error) from None
    own = {name: value for name, value in fields.items() if name not in _CHAT_FIELDS} if variant is ChatMessage else {}
    for name, value in own.items():
        if isinstance(value, _NESTING) and nested_too_deeply(value):
            raise EventError(f"$.{quotable_name(name)}", TOO_DEEP)
    return _parsed(message, message_of(variant), own)


def _check_length(raw: bytes) -> None:
    """Refuse what would take long to decode, as it can never be sent."""
    if len(raw) <= MOST_BESIDE_TEXT_BYTES:
        return
    try:
        text = _decode_text(raw).text
    except RecursionError:
        raise EventError(*too_deep(raw)) from None
    except msgspec.ValidationError as error:
        raise _event_error(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventError("$", not_json(raw, error)) from None
    text_bytes = len(text) if isinstance(text, Raw) and bytes(text).startswith(b'"') else 0
    if len(raw) - text_bytes > MOST_BESIDE_TEXT_BYTES:
        raise EventError("$", f"longer than {MOST_BESIDE_TEXT_BYTES} bytes, not counting its `text`")


def _variant_of(fields: dict[str, Any]) -> type[Message] | None:
    """The form of an event that these fields claim to be."""
    if fields.get("message") != "chat_message":
        return next((variant for variant in VARIANTS if message_of(variant) == fields.get("message")), None)
    # A name that is there twice has its last value: so `text` may be the type here, too.
    return TextMessage if fields.get("type") == "text" else ChatMessage


def _read_integer(fields: dict[str, Any], variant: type[Message]) -> bool:
    """Whether the event's integer is written as `2.0`; it is then replaced by `2`."""
    name = _INTEGERS.get(variant, "")
    value = fields.get(name)
    if not isinstance(value, float) or not value.is_integer():
        return False
    fields[name] = int(value)
    return True


def _event_error(error: msgspec.ValidationError) -> EventError:
    """A validation error of msgspec as a path and a reason."""
    at, reason = broken_rule(error)
    if at == "$.message" and reason == NOT_ALLOWED:
        reason = f"unknown event; one of {', '.join(MESSAGES)}"
    return EventError(at, reason)
