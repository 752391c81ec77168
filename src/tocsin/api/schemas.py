"""The request bodies as OpenAPI schemas: what `push_request`, `parse_event` and the operator's routes check by hand."""

from __future__ import annotations

import re
from typing import Final

from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema

from tocsin.domain.devices import APNS_DEVICE_TOKEN, APNS_TOPIC, APPLICATION_ID, FCM_DEVICE_TOKEN

KEY_ID: Final = re.compile(r"[A-Za-z0-9]{10}")
"""Apple's id of a key: ten characters."""
PROJECT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGEST_INTEGER: Final = 2**53 - 1
_RESERVED: Final = r"^(from|message_type|gcm|aps)$|^(google|gcm)\."


def _string(description: str | None = None, pattern: str | None = None) -> Schema:
    anchored = None if pattern is None else f"^{pattern}$"
    return Schema(type=OpenAPIType.STRING, description=description, pattern=anchored)


def _constant(value: str) -> Schema:
    return Schema(type=OpenAPIType.STRING, enum=[value])


def _uuid(description: str) -> Schema:
    return Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.UUID, description=description)


def _integer(description: str) -> Schema:
    return Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=_LARGEST_INTEGER, description=description)


def _object(
    title: str, required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, closed: bool = True
) -> Schema:
    return Schema(
        type=OpenAPIType.OBJECT,
        title=title,
        properties={**required, **(optional or {})},
        required=list(required),
        additional_properties=False if closed else None,
        property_names=None if closed else Schema(schema_not=Schema(pattern=_RESERVED)),
    )


_ANYTHING: Final = Schema(description="Of no use to this operation; ignored.")
_APNS: Final = _constant("apns")
_FCM: Final = _constant("fcm")
_APNS_TOKEN: Final = _string("APNs device token, answered in lower case", APNS_DEVICE_TOKEN.pattern)
_FCM_TOKEN: Final = _string("FCM registration token, or installation id", FCM_DEVICE_TOKEN.pattern)
_IGNORED: Final = {"application_id": _ANYTHING, "sandbox": _ANYTHING, "apns_topic": _ANYTHING}

PUSH: Final = Schema(
    any_of=[
        _object(
            "Add an APNs device token",
            {
                "system": _APNS,
                "action": _constant("add"),
                "device_token": _APNS_TOKEN,
                "application_id": _string("Team id, a dot, bundle id", APPLICATION_ID.pattern),
            },
            {
                "sandbox": Schema(type=OpenAPIType.BOOLEAN, default=False, description="Whether it is for the sandbox"),
                "apns_topic": _string("The topic, where it is not the bundle id", APNS_TOPIC.pattern),
            },
        ),
        _object(
            "Delete an APNs device token",
            {"system": _APNS, "action": _constant("delete"), "device_token": _APNS_TOKEN},
            _IGNORED,
        ),
        _object(
            "Add or delete an FCM registration token",
            {
                "system": _FCM,
                "action": Schema(type=OpenAPIType.STRING, enum=["add", "delete"]),
                "device_token": _FCM_TOKEN,
            },
            _IGNORED,
        ),
    ]
)

_EVENT_ID: Final = {"event_id": _uuid("Makes the hand-in idempotent for 24 hours. Made here where it is absent.")}


def _event(message: str, title: str, fields: dict[str, Schema], *, closed: bool = True) -> Schema:
    required = {"owner": _uuid("The user whose devices are to ring"), "message": _constant(message), **fields}
    return _object(title, required, _EVENT_ID, closed=closed)


def _phone(description: str) -> Schema:
    return _string(f"{description}, as it is to be shown; empty where it is withheld")


def _call_reverse(message: str, title: str) -> Schema:
    return _event(
        message, title, {"phone_from": _phone("The caller's number"), "phone_to": _phone("The called number")}
    )


_CHAT: Final = {
    "chat": _uuid("The chat"),
    "uuid": _uuid("The chat message"),
    "time": _integer("Unix seconds"),
    "user": _uuid("Who wrote it"),
    "user_name": _string("The writer's full name"),
}

EVENT: Final = Schema(
    any_of=[
        _event(
            "fax_new",
            "A new fax",
            {"fax": _uuid("The fax"), "phone": _phone("The sender's number"), "page_count": _integer("Pages")},
        ),
        _event(
            "recording_new",
            "A new recording",
            {"recording": _uuid("The recording"), "phone": _phone("The caller's number")},
        ),
        _call_reverse("dialplan_callreverse_start", "A call-reverse function has been started"),
        _call_reverse("dialplan_callreverse_stop", "A call-reverse function has been stopped"),
        _event(
            "chat_message", "A chat message: text", {**_CHAT, "type": _constant("text"), "text": _string("The text")}
        ),
        _event(
            "chat_message",
            "A chat message of another type, with fields of its own",
            {**_CHAT, "type": Schema(type=OpenAPIType.STRING, schema_not=Schema(enum=["text"]))},
            closed=False,
        ),
    ]
)

BATCH: Final = _string("One event a line, each as in `application/json`. All of them are accepted, or none.")

APPLICATION: Final = Schema(
    any_of=[
        _object(
            "A provider token's key",
            {
                "key_pem": _string("The .p8 file as downloaded from Apple"),
                "key_id": _string("The key's id", KEY_ID.pattern),
            },
        ),
        _object("A certificate", {"certificate_pem": _string("The certificate and its private key, both in PEM")}),
    ]
)
PROJECT: Final = _object(
    "A service account",
    {"service_account": Schema(type=OpenAPIType.OBJECT, description="The JSON file as downloaded from Google")},
    {"default": Schema(type=OpenAPIType.BOOLEAN, default=False, description="Whether devices use it by default")},
)
_IDS: Final = Schema(
    description="Which events; null means all",
    one_of=[
        Schema(type=OpenAPIType.ARRAY, items=_uuid("An event"), max_items=10_000),
        Schema(type=OpenAPIType.NULL),
    ],
)
DISCARD: Final = _object("Some dead letters, or all", {"ids": _IDS})
REPLAY: Final = _object(
    "Some dead letters, or all",
    {"ids": _IDS},
    {"lifetime_s": Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=28 * 24 * 3600, default=24 * 3600)},
)
RESTORE: Final = _object("A device token", {"device_token": _string("The token whose registrations come back")})
