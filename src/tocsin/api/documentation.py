"""The OpenAPI document: its settings, and what it says about each route."""

from __future__ import annotations

from typing import Any, Final, Literal

from litestar import Request
from litestar.datastructures import ResponseHeader
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin, YamlRenderPlugin
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
from tocsin.api.capped import MORE, MOST
from tocsin.api.problems import PROBLEM_JSON, ProblemBody
from tocsin.api.schemas import BATCH, EVENT, PUSH, Tokens

SESSION: Final[list[SecurityRequirement]] = [{"session": []}, {"sessionCookie": []}]
PRODUCER: Final[list[SecurityRequirement]] = [{"producerKey": []}]
PRODUCER_OR_ADMIN: Final[list[SecurityRequirement]] = [{"producerKey": []}, {"adminKey": []}]
ADMIN: Final[list[SecurityRequirement]] = [{"adminKey": []}]
ANYBODY_OR_MONITORING: Final[list[SecurityRequirement]] = [{}, {"adminKey": []}, {"monitoringKey": []}]

_PATH: Final = "/schema"
_FILES: Final = ("/openapi.json", "/openapi.yaml", "/openapi.yml")
_MEANING: Final = {
    400: "The input breaks a rule; `errors` names where and why.",
    401: "No valid session or key.",
    403: "The key is valid, but may not do this: it has another role (`forbidden`), may only read (`read-only-key`), is"
    " for other areas (`area-not-allowed`) or other events (`event-not-allowed`). Or a page of another site sent the"
    " request with the user's cookie (`foreign-page`).",
    404: "Not found.",
    408: "The body took too long to arrive.",
    409: "An `event_id` was used before for an event with other content.",
    413: "The body is too large, or has too many lines.",
    415: "The content type says that the body is something else.",
    429: "Too many requests, events, or wrong keys. See `Retry-After`.",
    500: "An unexpected error in tocsin; its log has the details.",
    503: "The store, or for `/api/push` the sign-in service, is unavailable: nothing was changed. With the type"
    " `outcome-unknown` it is not known whether anything was changed; repeating the request is safe. See"
    " `Retry-After`.",
}
_INGEST_503: Final = (
    "The backlog is full, the store is unavailable, or too many large bodies arrive at once: nothing was accepted. With"
    " the type `outcome-unknown` it is not known whether the events were accepted; `events` has an id for each line:"
    " repeating the events with these ids as `event_id` is safe. See `Retry-After`."
)


class PushAnswer(Struct, frozen=True, omit_defaults=True):
    """`{}`, or why nothing was changed."""

    status: Literal["unknown-appid", "invalid-appid", "invalid-apns-topic"] | UnsetType = UNSET


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The documented errors of a route."""
    return {status: _problem(_MEANING[status]) for status in (*statuses, 429, 500, 503)}


def _problem(description: str) -> ResponseSpec:
    return ResponseSpec(ProblemBody, False, description, PROBLEM_JSON)


def with_body(**content: Schema) -> type[Operation]:
    """An operation with this request body, where Litestar cannot derive its schema. Keys are `json` and `ndjson`."""
    media_types = {"json": JSON, "ndjson": NDJSON}
    body = RequestBody(
        content={media_types[name]: OpenAPIMediaType(schema=schema) for name, schema in content.items()}, required=True
    )

    class WithBody(Operation):
        def __init__(self, **fields: Any) -> None:
            super().__init__(**fields)
            self.request_body = body

    return WithBody


def _success(data: Any, description: str) -> ResponseSpec:
    return ResponseSpec(data, False, description)


class AcceptedBody(Struct, frozen=True):
    """The events are durable. One id for each line, in the order of the lines."""

    accepted: int
    events: list[str]


READ_TOKENS: Final[dict[str, Any]] = {
    "operation_id": "readTokens",
    "summary": "The current user's device tokens",
    "tags": ["apps"],
    "security": SESSION,
    "responses": {200: _success(Tokens, "Both sections are always there."), **problems(401, 403)},
}

CHANGE_TOKEN: Final[dict[str, Any]] = {
    "operation_id": "changeToken",
    "summary": "Add or delete one device token",
    "description": "Both are idempotent. After the answer to a `delete`, no push for this user goes to the token.",
    "tags": ["apps"],
    "security": SESSION,
    "operation_class": with_body(json=PUSH),
    "responses": {
        200: _success(PushAnswer, "Done; or, with a `status`, why nothing was changed."),
        **problems(400, 401, 403, 408, 413, 415),
    },
}

INGEST: Final[dict[str, Any]] = {
    "operation_id": "ingestEvents",
    "summary": "Ingest one event, or a batch",
    "description": "Answered only after the events are durable. A batch is accepted as a whole or not at all.",
    "tags": ["producers"],
    "security": PRODUCER,
    "operation_class": with_body(json=EVENT, ndjson=BATCH),
    "responses": {
        202: _success(AcceptedBody, "Accepted. `GET /api/events/{event_id}` answers what became of each event."),
        **problems(400, 401, 403, 408, 409, 413, 415),
        503: _problem(_INGEST_503),
    },
}

EXPLAIN_EVENT: Final[dict[str, Any]] = {
    "operation_id": "explainEvent",
    "summary": "What became of an event, device by device",
    "tags": ["producers"],
    "security": PRODUCER_OR_ADMIN,
    "responses": problems(400, 401, 403, 404),
}


_MORE: Final = ResponseHeader(
    name=MORE,
    documentation_only=True,
    required=True,
    description=f"`true` where there are more than the {MOST} rows of an answer, otherwise `false`",
)


class _Capped(Operation):
    """An operation whose answer is a list of at most `MOST` rows. Litestar cannot derive that."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        for media_type in ((self.responses or {})["200"].content or {}).values():  # type: ignore[union-attr]
            assert isinstance(media_type.schema, Schema)
            media_type.schema.max_items = MOST


def admin(
    operation_id: str,
    summary: str,
    *statuses: int,
    body: Schema | None = None,
    description: str | None = None,
    is_capped: bool = False,
) -> dict[str, Any]:
    """A route under `/api/admin`; `statuses` are its errors beside those that all these routes have."""
    return {
        **({"response_headers": [_MORE]} if is_capped else {}),
        "operation_id": operation_id,
        "summary": summary,
        "description": description,
        "responses": problems(400, 401, 403, *statuses),
        "operation_class": _Capped if is_capped else Operation if body is None else with_body(json=body),
    }


class _Once(OpenAPIRenderPlugin):
    """Renders the document once. Anybody may ask for it, and as YAML it takes 75 ms."""

    def __init__(self, plugin: OpenAPIRenderPlugin) -> None:
        super().__init__(path=plugin.paths, media_type=plugin.media_type)
        self._plugin = plugin
        self._rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._rendered is None:
            self._rendered = self._plugin.render(request, openapi_schema)
        return self._rendered


def openapi_config() -> OpenAPIConfig:
    """Only the document itself is served: a page to browse it would load its scripts from another server."""
    return OpenAPIConfig(
        title="tocsin",
        version=__version__,
        description="Self-hosted push notifications: apps register device tokens, backends send events.",
        path=_PATH,
        render_plugins=[_Once(JsonRenderPlugin(path=_FILES[0])), _Once(YamlRenderPlugin(path=_FILES[1:]))],
        components=Components(
            security_schemes={
                "session": _bearer("The session (`sid`) of a signed-in user"),
                "sessionCookie": SecurityScheme(type="apiKey", name="sid", security_scheme_in="cookie"),
                "producerKey": _bearer("A producer key: `tocsin key create producer`"),
                "adminKey": _bearer("An admin key: `tocsin key create admin`"),
                "monitoringKey": _bearer("A monitoring key: `tocsin key create monitoring`"),
            }
        ),
    )


def is_unknown_schema_path(path: str) -> bool:
    """Whether it is none of the document's addresses. Litestar would answer these itself, in HTML."""
    return path.startswith(f"{_PATH}/") and path.removeprefix(_PATH) not in _FILES


def _bearer(description: str) -> SecurityScheme:
    return SecurityScheme(type="http", scheme="bearer", description=description)
