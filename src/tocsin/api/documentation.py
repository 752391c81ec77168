"""What the OpenAPI document says of each route, and of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    Operation,
    RequestBody,
    Schema,
    SecurityRequirement,
    SecurityScheme,
)
from msgspec import UNSET, Struct, UnsetType

from tocsin import __version__
from tocsin.api.body import JSON, NDJSON
from tocsin.api.problems import PROBLEM_JSON, ProblemBody
from tocsin.api.schemas import BATCH, EVENT, PUSH

SESSION: Final[list[SecurityRequirement]] = [{"session": []}, {"sessionCookie": []}]
PRODUCER: Final[list[SecurityRequirement]] = [{"producerKey": []}]
PRODUCER_OR_ADMIN: Final[list[SecurityRequirement]] = [{"producerKey": []}, {"adminKey": []}]
ADMIN: Final[list[SecurityRequirement]] = [{"adminKey": []}]

_PATH: Final = "/schema"
_FILES: Final = ("/openapi.json", "/openapi.yaml", "/openapi.yml")
_MEANING: Final = {
    400: "The input breaks a rule; `errors` names where and why.",
    401: "No valid session or key.",
    403: "The key is for something else.",
    404: "There is no such thing.",
    408: "The body took too long to arrive.",
    409: "An `event_id` was used before for an event with other content.",
    413: "The body is too large, or has too many lines.",
    415: "The content type says that the body is something else.",
    500: "Something went wrong in tocsin.",
    503: "The backlog is full or the store unavailable: nothing was changed. See `Retry-After`.",
}


class PushAnswer(Struct, frozen=True, omit_defaults=True):
    """`{}`, or why nothing was changed."""

    status: Literal["unknown-appid", "invalid-appid", "invalid-apns-topic"] | UnsetType = UNSET


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The documented errors of a route."""
    return {
        status: ResponseSpec(ProblemBody, False, _MEANING[status], PROBLEM_JSON) for status in (*statuses, 500, 503)
    }


def with_body(**content: Schema) -> type[Operation]:
    """An operation whose request body is read by hand. Keys are `json` and `ndjson`."""
    media_types = {"json": JSON, "ndjson": NDJSON}
    body = RequestBody(
        content={media_types[name]: OpenAPIMediaType(schema=schema) for name, schema in content.items()}, required=True
    )

    @dataclass
    class WithBody(Operation):
        def __post_init__(self) -> None:
            self.request_body = body

    return WithBody


def _answer(data: Any, description: str) -> ResponseSpec:
    return ResponseSpec(data, False, description)


class _AcceptedBody(Struct, frozen=True):
    """The events are durable. One id for each line, in the order of the lines."""

    accepted: int
    events: list[str]


def read_tokens(tokens: type[Struct]) -> dict[str, Any]:
    return {
        "operation_id": "readTokens",
        "summary": "The current user's device tokens",
        "tags": ["apps"],
        "security": SESSION,
        "responses": {200: _answer(tokens, "Both sections are always there."), **problems(401)},
    }


CHANGE_TOKEN: Final[dict[str, Any]] = {
    "operation_id": "changeToken",
    "summary": "Add or delete one device token",
    "description": "Both are idempotent. After the answer to a `delete`, no push for this user goes to the token.",
    "tags": ["apps"],
    "security": SESSION,
    "operation_class": with_body(json=PUSH),
    "responses": {
        200: _answer(PushAnswer, "Done; or, with a `status`, why nothing was changed."),
        **problems(400, 401, 408, 413, 415),
    },
}

HAND_IN: Final[dict[str, Any]] = {
    "operation_id": "handInEvents",
    "summary": "Hand in one event, or a batch",
    "description": "Answered only after the events are durable. A batch is accepted as a whole or not at all.",
    "tags": ["producers"],
    "security": PRODUCER,
    "operation_class": with_body(json=EVENT, ndjson=BATCH),
    "responses": {
        202: _answer(_AcceptedBody, "Accepted: what comes of it is at `/api/events/{event_id}`."),
        **problems(400, 401, 403, 408, 409, 413, 415),
    },
}

EXPLAIN_EVENT: Final[dict[str, Any]] = {
    "operation_id": "explainEvent",
    "summary": "What became of an event, device by device",
    "tags": ["producers"],
    "security": PRODUCER_OR_ADMIN,
    "responses": problems(400, 401, 403, 404),
}


def admin(operation_id: str, summary: str, *statuses: int, body: Schema | None = None) -> dict[str, Any]:
    """A route under `/api/admin`; `statuses` are its errors beside those that all of them have."""
    return {
        "operation_id": operation_id,
        "summary": summary,
        "responses": problems(400, 401, 403, *statuses),
        "operation_class": Operation if body is None else with_body(json=body),
    }


def openapi_config() -> OpenAPIConfig:
    """The document is served as it is: a browsable page would load its scripts from somebody else's server."""
    return OpenAPIConfig(
        title="tocsin",
        version=__version__,
        description="Self-hosted push notifications: apps register device tokens, backends hand in events.",
        path=_PATH,
        render_plugins=[JsonRenderPlugin(path=_FILES[0]), YamlRenderPlugin(path=_FILES[1:])],
        components=Components(
            security_schemes={
                "session": _bearer("The session (`sid`) of a signed-in user"),
                "sessionCookie": SecurityScheme(type="apiKey", name="sid", security_scheme_in="cookie"),
                "producerKey": _bearer("A producer key: `tocsin key create producer`"),
                "adminKey": _bearer("An admin key: `tocsin key create admin`"),
            }
        ),
    )


def is_unknown_schema_path(path: str) -> bool:
    """Litestar answers these itself, in HTML."""
    return path.startswith(f"{_PATH}/") and path.removeprefix(_PATH) not in _FILES


def _bearer(description: str) -> SecurityScheme:
    return SecurityScheme(type="http", scheme="bearer", description=description)
