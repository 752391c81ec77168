"""The request bodies as OpenAPI schemas. Those of the events are derived from `domain.events`; the others say what
`push_request` and the operator's routes check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from msgspec import UNSET, Struct, UnsetType

from tocsin.domain.event_schema import json_schema
from tocsin.domain.events import MESSAGES, MOST_BESIDE_TEXT_BYTES, VARIANTS
from tocsin.domain.json_errors import MOST_LEVELS
from tocsin.providers.apns import address as apns
from tocsin.providers.apns.address import ApnsTokens
from tocsin.providers.fcm import address as fcm
from tocsin.providers.fcm.address import FcmTokens
from tocsin.store.records import Area

_RESERVED: Final = r"^(from|message_type|gcm|aps)$|^(google|gcm)\."
"""Names of fields that the providers reserve (`Rules.reserves`)."""


class Tokens(Struct, frozen=True, omit_defaults=True):
    """A user's tokens; both sections are always there. `status` belongs to the platform's convention."""

    fcm: FcmTokens
    apns: ApnsTokens
    status: str | UnsetType = UNSET


def _string(description: str | None = None, pattern: str | None = None) -> Schema:
    anchored = None if pattern is None else f"^{pattern}$"
    return Schema(type=OpenAPIType.STRING, description=description, pattern=anchored)


def _pem(description: str, *labels: str) -> Schema:
    """A text with at least one PEM block (RFC 7468) of each label."""
    blocks = [Schema(pattern=f"-----BEGIN {label}-----") for label in labels]
    return Schema(type=OpenAPIType.STRING, description=description, all_of=blocks)


def _filled(description: str | None = None) -> Schema:
    return Schema(type=OpenAPIType.STRING, description=description, min_length=1)


def _constant(value: str) -> Schema:
    return Schema(type=OpenAPIType.STRING, enum=[value])


def _uuid(description: str) -> Schema:
    return Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.UUID, description=description)


def _object(title: str, required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return Schema(
        type=OpenAPIType.OBJECT,
        title=title,
        properties={**required, **(optional or {})},
        required=list(required),
        additional_properties=False,
    )


_PRIVATE_KEY: Final = "[A-Z ]*PRIVATE KEY"
_ANYTHING: Final = Schema(description="Not used by this operation; ignored.")
_APNS: Final = _constant("apns")
_FCM: Final = _constant("fcm")
_APNS_TOKEN: Final = _string("APNs device token, answered in lower case", apns.DEVICE_TOKEN.pattern)
_FCM_TOKEN: Final = _string("FCM registration token, or installation id", fcm.DEVICE_TOKEN.pattern)
_IGNORED: Final = {"application_id": _ANYTHING, "sandbox": _ANYTHING, "apns_topic": _ANYTHING}

PUSH: Final = Schema(
    any_of=[
        _object(
            "Add an APNs device token",
            {
                "system": _APNS,
                "action": _constant("add"),
                "device_token": _APNS_TOKEN,
                "application_id": _string("Team id, a dot, bundle id", apns.APPLICATION_ID.pattern),
            },
            {
                "sandbox": Schema(type=OpenAPIType.BOOLEAN, default=False, description="Whether it is for the sandbox"),
                "apns_topic": _string("The topic, where it is not the bundle id", apns.TOPIC.pattern),
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

_ARGUMENTS: Final = {"not": "schema_not", "additionalProperties": "additional_properties"}


def event(variant: type[Struct]) -> Schema:
    """One form of an event. Where it takes unknown fields, their names must not be among those reserved."""
    schema = _from_json_schema(json_schema(variant))
    if schema.additional_properties is not False:
        schema.property_names = Schema(schema_not=Schema(pattern=_RESERVED))
    return schema


def _from_json_schema(found: Mapping[str, Any]) -> Schema:
    arguments = {_ARGUMENTS.get(keyword, keyword): value for keyword, value in found.items()}
    if "enum" in arguments:
        arguments.setdefault("type", OpenAPIType.STRING)
    if "schema_not" in arguments:
        arguments["schema_not"] = Schema(**arguments["schema_not"])
    if "properties" in arguments:
        arguments["properties"] = {name: _from_json_schema(field) for name, field in found["properties"].items()}
    return Schema(**arguments)


EVENT: Final = Schema(
    description=f"At most {MOST_BESIDE_TEXT_BYTES} bytes, not counting `text`, and {MOST_LEVELS} levels of nesting.",
    any_of=[event(variant) for variant in VARIANTS],
)

BATCH: Final = _string("One event a line, each as in `application/json`. All of them are ingested, or none.")

APPLICATION: Final = Schema(
    any_of=[
        _object(
            "A provider token's key",
            {
                "key_pem": _pem("The .p8 file as downloaded from Apple", _PRIVATE_KEY),
                "key_id": _string("The key's id", apns.KEY_ID.pattern),
            },
        ),
        _object(
            "A certificate",
            {"certificate_pem": _pem("The certificate and its private key, both in PEM", "CERTIFICATE", _PRIVATE_KEY)},
        ),
    ]
)
PROJECT: Final = _object(
    "A service account",
    {
        "service_account": Schema(
            type=OpenAPIType.OBJECT,
            description="The JSON file as downloaded from Google",
            properties={
                "client_email": _filled(),
                "private_key": _pem("An RSA key", _PRIVATE_KEY),
                "token_uri": _filled("Where Google gives out access tokens"),
                "project_id": _string(pattern=fcm.PROJECT_ID.pattern),
                "private_key_id": _string(),
            },
            required=["client_email", "private_key", "token_uri", "project_id"],
        )
    },
    {"default": Schema(type=OpenAPIType.BOOLEAN, default=False, description="Whether devices use it by default")},
)
MOST_IDS: Final = 10_000
_IDS: Final = Schema(
    description="Which events; null means all",
    one_of=[
        Schema(type=OpenAPIType.ARRAY, items=_uuid("An event"), max_items=MOST_IDS),
        Schema(type=OpenAPIType.NULL),
    ],
)
DISCARD: Final = _object("Some dead letters, or all", {"ids": _IDS})
REPLAY: Final = _object(
    "Some dead letters, or all",
    {"ids": _IDS},
    {"lifetime_s": Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=28 * 24 * 3600, default=24 * 3600)},
)
RESTORE: Final = _object("A device token", {"device_token": _string("The token whose registrations are restored")})

_TIME: Final = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME)


def _time(description: str) -> Schema:
    return Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME, description=description)


_OUTCOMES: Final = ("delivered", "token_dead", "refused", "expired", "cancelled", "waiting", "no_device", "accepted")


def _choice(*values: str) -> Schema:
    return Schema(type=OpenAPIType.STRING, enum=list(values))


def _integer(least: int, most: int, default: int | None = None) -> Schema:
    return Schema(type=OpenAPIType.INTEGER, minimum=least, maximum=most, default=default)


def _or_null(schemas: dict[str, Schema]) -> dict[str, Schema]:
    """The same fields, each of which may also be null: as if it were absent."""
    return {name: Schema(one_of=[schema, Schema(type=OpenAPIType.NULL)]) for name, schema in schemas.items()}


_CURSOR: Final = _string("The `next` of the page before")
_SOUGHT: Final = _or_null(
    {
        "owner": _uuid("The user"),
        "event_id": _uuid("The event"),
        "device_token": _filled("The device token: here, and never in a URL"),
        "system": _choice("apns", "fcm"),
        "account": _string("An application's id, or a Firebase project's name"),
        "outcome": Schema(type=OpenAPIType.ARRAY, items=_choice(*_OUTCOMES), min_items=1),
        "reason": _string("The reason of the last attempt, exactly as the provider named it"),
        "message": _choice(*MESSAGES),
        "from": _time("Accepted at this time or later"),
        "until": _time("Accepted before this time"),
        "at_from": _time("The delivery's `at` is this time or later"),
        "at_until": _time("The delivery's `at` is before this time"),
        "state": Schema(type=OpenAPIType.ARRAY, items=_choice("accepted", "delivering", "done", "dead"), min_items=1),
        "start": _CURSOR,
    }
)
SEARCH: Final = _object(
    "What is looked for; all of it must be true of one delivery", {}, {**_SOUGHT, "limit": _integer(1, 200, 50)}
)
FIND_DEVICES: Final = Schema(
    one_of=[
        _object("A user's", {"owner": _uuid("The user")}),
        _object("A token's", {"device_token": _filled("The device token")}),
    ]
)
REMOVE_DEVICE: Final = _object(
    "One registration",
    {"owner": _uuid("The user"), "system": _choice("apns", "fcm"), "device_token": _filled("The device token")},
)
CHECK: Final = _object("Which environment to ask", {}, {"sandbox": Schema(type=OpenAPIType.BOOLEAN, default=False)})
LONGEST_S: Final = 36_500 * 24 * 3600
_RATE: Final = {"count": _integer(1, 9_999_999), "per_s": _integer(1, 3600)}
_EXPIRES_IN: Final = Schema(
    description="For how many seconds it is good; null: for ever",
    one_of=[_integer(1, LONGEST_S), Schema(type=OpenAPIType.NULL)],
)
_FOR_PEOPLE: Final = {"name": _string("For people")}
NEW_KEY: Final = Schema(
    one_of=[
        _object(
            "A producer key",
            {"role": _choice("producer"), "expires_in_s": _EXPIRES_IN},
            {
                **_FOR_PEOPLE,
                **_or_null(
                    {
                        "events": Schema(type=OpenAPIType.ARRAY, items=_choice(*MESSAGES), description="Only these"),
                        "rate": _object("So many events within so many seconds", _RATE),
                    }
                ),
            },
        ),
        _object(
            "An admin key",
            {"role": _choice("admin"), "expires_in_s": _EXPIRES_IN},
            {
                **_FOR_PEOPLE,
                "read_only": Schema(type=OpenAPIType.BOOLEAN, default=False),
                **_or_null(
                    {
                        "areas": Schema(
                            type=OpenAPIType.ARRAY, items=_choice(*Area), description="Only these; empty: all"
                        ),
                    }
                ),
            },
        ),
        _object("A monitoring key", {"role": _choice("monitoring"), "expires_in_s": _EXPIRES_IN}, _FOR_PEOPLE),
    ]
)
NEW_SESSION: Final = _object("A session", {"owner": _uuid("The user"), "expires_in_s": _EXPIRES_IN})

_OF_LETTERS: Final = _or_null(
    {
        "owner": _uuid("The user"),
        "message": _choice(*MESSAGES),
        "system": _choice("apns", "fcm"),
        "account": _string("An application's id, or a Firebase project's name"),
        "outcome": _choice("refused", "expired"),
        "reason": _string("Exactly as the provider named it"),
        "from": _TIME,
        "until": _TIME,
    }
)
_OF_REMOVALS: Final = {name: schema for name, schema in _OF_LETTERS.items() if name not in ("message", "outcome")}


def _jobs(with_lifetime: bool) -> Schema:
    lifetime = _or_null({"lifetime_s": _integer(1, 28 * 24 * 3600)}) if with_lifetime else {}
    letters, removals = _object("Which dead letters", {}, _OF_LETTERS), _object("Which removals", {}, _OF_REMOVALS)
    quarantine = _object("Whose", {"account": _filled("An application's id, or a Firebase project's name")})
    return Schema(
        one_of=[
            _object("Deliver dead letters again", {"action": _choice("replay")}, {"filter": letters, **lifetime}),
            _object("Give dead letters up", {"action": _choice("discard")}, {"filter": letters}),
            _object("Restore removed registrations", {"action": _choice("restore")}, {"filter": removals}),
            _object("Release or purge a quarantine", {"action": _choice("release", "purge"), "filter": quarantine}),
        ]
    )


JOB: Final = _jobs(with_lifetime=True)
JOB_PREVIEW: Final = _jobs(with_lifetime=False)
