"""Reads the body of `POST /api/push`, rule by rule (SPEC, section 2). Pure: what it cannot know, it does not judge."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from tocsin.api.problems import Kind, RequestError, bad_input, told_name
from tocsin.domain.devices import APNS_TOPIC, APPLICATION_ID, ApplicationId, DeviceToken, System, token_error

T = TypeVar("T")

FIELDS: Final = frozenset({"system", "action", "device_token", "sandbox", "application_id", "apns_topic"})
_JSON_TYPES: Final = {str: "a string", bool: "true or false"}
_decode = msgspec.json.Decoder(dict[str, Raw]).decode


class Add(Struct, frozen=True):
    """Register one token. The last three fields are those of an APNs device."""

    system: System
    token: DeviceToken
    application_id: ApplicationId | None = None
    sandbox: bool = False
    apns_topic: str | None = None


class Delete(Struct, frozen=True):
    """Remove one token."""

    system: System
    token: DeviceToken


def parse_push(body: bytes) -> Add | Delete:
    """One operation. Fields that are known but of no use to it are not even looked at.

    Raises:
        RequestError: the body breaks a rule.
    """
    fields = _object(body)
    system = System(_choice(fields, "system", tuple(System)))
    action = _choice(fields, "action", ("add", "delete"))
    token = _field(fields, "device_token", str)
    if reason := token_error(system, token):
        raise bad_input("$.device_token", reason)
    if system is System.APNS:
        token = token.lower()
    if action == "delete":
        return Delete(system, DeviceToken(token))
    if system is System.FCM:
        return Add(system, DeviceToken(token))
    return _apns(fields, DeviceToken(token))


def _apns(fields: dict[str, Raw], token: DeviceToken) -> Add:
    application_id = _field(fields, "application_id", str)
    sandbox = _field(fields, "sandbox", bool) if "sandbox" in fields else False
    topic = _field(fields, "apns_topic", str) if "apns_topic" in fields else None
    if not APPLICATION_ID.fullmatch(application_id):
        raise bad_input("$.application_id", f"must match ^{APPLICATION_ID.pattern}$", Kind.INVALID_APPID)
    if topic is not None and not APNS_TOPIC.fullmatch(topic):
        raise bad_input("$.apns_topic", f"must match ^{APNS_TOPIC.pattern}$", Kind.INVALID_APNS_TOPIC)
    return Add(System.APNS, token, ApplicationId(application_id), sandbox, topic)


def _object(body: bytes) -> dict[str, Raw]:
    try:
        # Fields that nobody looks at must be JSON as well, and JSON is UTF-8.
        body.decode()
        fields = _decode(body)
    except msgspec.ValidationError:
        raise bad_input("$", "must be a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise bad_input("$", "not valid JSON") from None
    for name in fields:
        if name not in FIELDS:
            raise bad_input(f"$.{told_name(name)}", "unknown field")
    return fields


def _field(fields: dict[str, Raw], name: str, kind: type[T]) -> T:
    raw = fields.get(name)
    if raw is None:
        raise bad_input(f"$.{name}", "missing", Kind.MISSING_ELEMENT)
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise bad_input(f"$.{name}", f"must be {_JSON_TYPES[kind]}") from None


def _choice(fields: dict[str, Raw], name: str, choices: tuple[Any, ...]) -> str:
    value = _field(fields, name, str)
    if value not in choices:
        raise bad_input(f"$.{name}", f"must be {' or '.join(choices)}")
    return value


def unknown_application(application_id: ApplicationId) -> RequestError:
    """The id is well formed, but no such application has been set up here."""
    return bad_input("$.application_id", f"{application_id} is not known here", Kind.UNKNOWN_APPID)
