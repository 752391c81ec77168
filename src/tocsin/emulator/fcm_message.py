"""Decodes and checks a `messages:send` request.

A request with only common fields (a target, data, a few Android settings) is decoded by type, in half a microsecond.
Any other request is checked against the complete schema, which finds all violations.
Source: Google, "REST Resource: projects.messages".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from tocsin.emulator.fcm_errors import invalid_argument, invalid_json, malformed
from tocsin.emulator.fcm_schema import REQUEST, Violation, find_violations, is_duration, normalised, wrong_duration

DATA_LIMIT_BYTES: Final = 4096
_MAX_TTL_S: Final = 2_419_200
_TARGETS: Final = ("token", "fid", "topic", "condition")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,4096}")
"""Google does not say what its registration tokens look like. Apps get 140 characters and more, never fewer than the 22
of an installation id; documents shorten them."""
_INSTALLATION_ID: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_TOPIC: Final = re.compile(r"[a-zA-Z0-9-_.~%]{1,900}")
_RESERVED: Final = frozenset({"from", "message_type", "gcm"})
_RESERVED_PREFIXES: Final = ("google.", "gcm.")


class Android(Struct, forbid_unknown_fields=True):
    """The members of `AndroidConfig` whose values are checked."""

    priority: Literal["HIGH", "NORMAL", "high", "normal"] | None = None
    ttl: str | None = None
    collapse_key: str | None = None
    data: dict[str, str] | None = None


class Message(Struct, forbid_unknown_fields=True):
    """The members of `Message` whose values are checked."""

    token: str | None = None
    fid: str | None = None
    topic: str | None = None
    condition: str | None = None
    data: dict[str, str] | None = None
    android: Android | None = None

    @property
    def target(self) -> str:
        """The value of the member that names the recipient; empty if there is none."""
        return self.token or self.fid or self.topic or self.condition or ""


class SendRequest(Struct, forbid_unknown_fields=True):
    """The body of a `messages:send` request."""

    message: Message
    validate_only: bool | None = False


_decode_common = msgspec.json.Decoder(SendRequest).decode
_decode_any = msgspec.json.Decoder(Any).decode


def read_request(body: bytes) -> SendRequest:
    """Decode and check a request body.

    Raises:
        FcmRefusal: with Google's message and violations.
    """
    try:
        request = _decode_common(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        request = _read_by_schema(body)
    _check_message(request.message, len(body))
    return request


def _read_by_schema(body: bytes) -> SendRequest:
    try:
        fields = _decode_any(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise invalid_json("Unexpected token." if body else "Unexpected end of string. Expected a value.") from None
    if not isinstance(fields, dict):
        raise invalid_json("Root element must be a message.")
    if found := find_violations(fields, REQUEST):
        raise malformed(found)
    request = normalised(fields)
    if "message" not in request:
        raise invalid_argument("Message is not set.", "message")
    message = normalised(request["message"])
    android = normalised(message.get("android", {}))
    return SendRequest(
        Message(
            **{name: message[name] for name in (*_TARGETS, "data") if name in message},
            android=Android(**{name: android[name] for name in Android.__struct_fields__ if name in android}),
        ),
        request.get("validate_only"),
    )


def _check_message(message: Message, size_bytes: int) -> None:
    if message.token and message.fid is message.topic is message.condition is None:
        _check_target("token", message.token)
    else:
        _check_target(_only_target(message), message.target)
    if message.data:
        _check_data(message.data, "message.data", size_bytes)
    if message.android is not None:
        ttl = message.android.ttl
        if ttl is not None and not _is_valid_ttl(ttl):
            if not is_duration(ttl):
                raise malformed([wrong_duration(ttl, "message.android.ttl")])
            raise invalid_argument("Request contains an invalid argument.", "message.android.ttl", "Invalid TTL")
        if message.android.data:
            _check_data(message.android.data, "message.android.data", size_bytes)


def _only_target(message: Message) -> str:
    targets = [target for target in _TARGETS if getattr(message, target)]
    if len(targets) > 1:
        description = f"oneof field 'target' is already set. Cannot set '{targets[1]}'"
        raise malformed([Violation("message", f"Invalid value at 'message' (oneof), {description}")])
    if not targets:
        raise invalid_argument("Recipient of the message is not set.", "message")
    return targets[0]


def _check_target(target: str, value: str) -> None:
    if target == "token" and _TOKEN.fullmatch(value) is None:
        raise invalid_argument(
            "The registration token is not a valid FCM registration token",
            "message.token",
            "Invalid registration token",
        )
    if target == "fid" and _INSTALLATION_ID.fullmatch(value) is None:
        raise invalid_argument("Request contains an invalid argument.", "message.fid", "Invalid installation id")
    if target == "topic" and _TOPIC.fullmatch(value) is None:
        raise invalid_argument("Request contains an invalid argument.", "message.topic", "Invalid topic name")


def _check_data(data: dict[str, str], path: str, size_bytes: int) -> None:
    reserved = _first_reserved_key(tuple(data))
    if reserved is not None:
        index, key = reserved
        raise invalid_argument(f"Invalid data payload key: {key}", f"{path}[{index}].key")
    # The request is never smaller than the data in it: for most requests the data need not be measured.
    if size_bytes > DATA_LIMIT_BYTES:
        data_bytes = sum(len(key.encode()) + len(value.encode()) for key, value in data.items())
        if data_bytes > DATA_LIMIT_BYTES:
            raise invalid_argument("Android message is too big")


# Cached because a sender uses few different sets of keys and few different TTLs.
@lru_cache(1000)
def _first_reserved_key(keys: tuple[str, ...]) -> tuple[int, str] | None:
    for index, key in enumerate(keys):
        if key in _RESERVED or key.startswith(_RESERVED_PREFIXES):
            return index, key
    return None


@lru_cache(1000)
def _is_valid_ttl(ttl: str) -> bool:
    return is_duration(ttl) and 0 <= float(ttl[:-1]) <= _MAX_TTL_S
