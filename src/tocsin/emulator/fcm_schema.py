"""The schema of a `messages:send` request, and the violations of it in Google's wording.

Source: Google, "REST Resource: projects.messages", and the JSON mapping of protocol buffers: names are in snake_case or
lowerCamelCase, null is the same as absent, and all violations are reported, not only the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

_MESSAGING: Final = "type.googleapis.com/google.firebase.fcm.v1."
_DURATION: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s")
_CAPITAL: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")
_encode = msgspec.json.Encoder().encode


class Violation(Struct, frozen=True):
    """One `fieldViolation` of Google's BadRequest error: the path of the field, and what is wrong with it."""

    field: str
    description: str


class Scalar(Struct, frozen=True):
    """A value that is not an object or list; `accepts` tells whether a value is valid."""

    type_name: str
    """Google's name of the type, for the description of a violation."""
    accepts: Callable[[Any], bool]


class Fields(Struct, frozen=True):
    """An object that may have these fields and no others; the keys of `known` are in snake_case."""

    type_name: str
    known: dict[str, Any]


class Map(Struct, frozen=True):
    """An object with any keys, and with strings as values."""

    type_name: str


class Repeated(Struct, frozen=True):
    """A list whose items all have the same shape; a single item is accepted, too."""

    item: Any
    """The shape of each item."""


Shape = Scalar | Fields | Map | Repeated


def find_violations(value: dict[str, Any], shape: Fields, path: str = "") -> list[Violation]:
    """All violations in an object, in the order of its fields; `path` is the path of the object in the request."""
    found: list[Violation] = []
    for name, field in value.items():
        known = shape.known.get(snake(name))
        if known is None:
            location = f" at '{path}'" if path else ""
            quoted = _encode(name).decode()
            found.append(
                Violation(path, f"Invalid JSON payload received. Unknown name {quoted}{location}: Cannot find field.")
            )
        elif field is not None:
            found += _check(field, known, f"{path}.{snake(name)}" if path else snake(name))
    return found


def normalised(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its own names in snake_case and without its nulls; objects within it stay as they are."""
    return {snake(name): field for name, field in value.items() if field is not None}


def snake(name: str) -> str:
    """A lowerCamelCase name in snake_case."""
    return _CAPITAL.sub(lambda match: "_" + match[1].lower(), name)


def is_duration(value: Any) -> bool:
    """Whether a value is a `Duration` of protocol buffers in JSON: seconds with the suffix `s`."""
    return isinstance(value, str) and _DURATION.fullmatch(value) is not None


def wrong_duration(value: str, path: str) -> Violation:
    """The violation of a field that must be a `Duration`."""
    return _wrong_value(value, _DURATION_FIELD.type_name, path)


def _check(value: Any, shape: Shape, path: str) -> list[Violation]:
    match shape:
        case Scalar():
            return [] if shape.accepts(value) else [_wrong_value(value, shape.type_name, path)]
        case Fields():
            if not isinstance(value, dict):
                return [_wrong_value(value, shape.type_name, path)]
            return find_violations(value, shape, path)
        case Map():
            if not isinstance(value, dict):
                return [_wrong_value(value, shape.type_name, path)]
            return [
                _wrong_value(item, "TYPE_STRING", f"{path}[{index}].value")
                for index, item in enumerate(value.values())
                if not isinstance(item, str)
            ]
        case Repeated():
            items = value if isinstance(value, list) else [value]
            return [found for index, item in enumerate(items) for found in _check(item, shape.item, f"{path}[{index}]")]


def _wrong_value(value: Any, type_name: str, path: str) -> Violation:
    return Violation(path, f"Invalid value at '{path}' ({type_name}), {_encode(value).decode()}")


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdigit())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(type_name: str, *names: str) -> Scalar:
    allowed = frozenset(names)
    return Scalar(_MESSAGING + type_name, lambda value: isinstance(value, str) and value in allowed)


def _message(type_name: str, **known: Shape) -> Fields:
    return Fields(_MESSAGING + type_name, known)


_STRING: Final = Scalar("TYPE_STRING", lambda value: isinstance(value, str))
_BOOL: Final = Scalar("TYPE_BOOL", lambda value: isinstance(value, bool))
_INT32: Final = Scalar("TYPE_INT32", _is_integer)
_FLOAT: Final = Scalar("TYPE_FLOAT", _is_number)
_STRUCT: Final = Scalar("type.googleapis.com/google.protobuf.Struct", lambda value: isinstance(value, dict))
_TIMESTAMP: Final = Scalar("type.googleapis.com/google.protobuf.Timestamp", lambda value: isinstance(value, str))
_DURATION_FIELD: Final = Scalar("type.googleapis.com/google.protobuf.Duration", is_duration)
_DATA: Final = Map(_MESSAGING + "Message.DataEntry")
_HEADERS: Final = Map(_MESSAGING + "HeadersEntry")
_COLOR: Final = _message("Color", red=_FLOAT, green=_FLOAT, blue=_FLOAT, alpha=_FLOAT)
_LABEL: Final = _message("FcmOptions", analytics_label=_STRING)
_STRINGS: Final = Repeated(_STRING)

_ANDROID_NOTIFICATION: Final = _message(
    "AndroidNotification",
    title=_STRING, body=_STRING, icon=_STRING, color=_STRING, sound=_STRING, tag=_STRING, click_action=_STRING,
    body_loc_key=_STRING, body_loc_args=_STRINGS, title_loc_key=_STRING, title_loc_args=_STRINGS, channel_id=_STRING,
    ticker=_STRING, sticky=_BOOL, event_time=_TIMESTAMP, local_only=_BOOL, notification_count=_INT32, image=_STRING,
    default_sound=_BOOL, default_vibrate_timings=_BOOL, default_light_settings=_BOOL,
    notification_priority=_one_of(
        "AndroidNotification.NotificationPriority", "PRIORITY_UNSPECIFIED", "PRIORITY_MIN", "PRIORITY_LOW",
        "PRIORITY_DEFAULT", "PRIORITY_HIGH", "PRIORITY_MAX",
    ),
    vibrate_timings=Repeated(_DURATION_FIELD),
    visibility=_one_of("AndroidNotification.Visibility", "VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"),
    light_settings=_message(
        "LightSettings", color=_COLOR, light_on_duration=_DURATION_FIELD, light_off_duration=_DURATION_FIELD
    ),
    proxy=_one_of("AndroidNotification.Proxy", "PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
    bypass_proxy_notification=_BOOL,
)  # fmt: skip

_ANDROID: Final = _message(
    "AndroidConfig",
    collapse_key=_STRING,
    priority=_one_of("AndroidMessagePriority", "HIGH", "NORMAL", "high", "normal"),
    ttl=_DURATION_FIELD,
    restricted_package_name=_STRING,
    data=_DATA,
    notification=_ANDROID_NOTIFICATION,
    fcm_options=_LABEL,
    direct_boot_ok=_BOOL,
    bandwidth_constrained_ok=_BOOL,
    restricted_satellite_ok=_BOOL,
)

_MESSAGE: Final = _message(
    "Message",
    name=_STRING,
    data=_DATA,
    notification=_message("Notification", title=_STRING, body=_STRING, image=_STRING),
    android=_ANDROID,
    webpush=_message(
        "WebpushConfig",
        headers=_HEADERS,
        data=_DATA,
        notification=_STRUCT,
        fcm_options=_message("WebpushFcmOptions", link=_STRING, analytics_label=_STRING),
    ),
    apns=_message(
        "ApnsConfig",
        headers=_HEADERS,
        payload=_STRUCT,
        fcm_options=_message("ApnsFcmOptions", analytics_label=_STRING, image=_STRING),
        live_activity_token=_STRING,
    ),
    fcm_options=_LABEL,
    token=_STRING,
    fid=_STRING,
    topic=_STRING,
    condition=_STRING,
)

REQUEST: Final = Fields("", {"message": _MESSAGE, "validate_only": _BOOL})
