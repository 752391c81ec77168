"""Requests to tocsin's API, in the process: the whole ASGI application, without a socket and HTTP's bytes."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec
from litestar import Litestar
from msgspec import Struct

from tests.simulator.phones import Phone

JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"


class Secrets(Struct, frozen=True):
    """Who may call: made once, with the store that every simulation begins with."""

    producer: str
    admin: str
    sessions: dict[str, str]
    """By owner."""


class Answer(Struct, frozen=True):
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


async def call(
    app: Litestar, method: str, path: str, secret: str, body: bytes = b"", content_type: bytes = JSON
) -> Answer:
    """One request with its answer."""
    path, _, query = path.partition("?")
    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"authorization", b"Bearer " + secret.encode()),
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
        "state": {},
    }
    got: list[dict[str, Any]] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        got.append(cast("dict[str, Any]", message))

    await app(scope, receive, send)
    start = next(message for message in got if message["type"] == "http.response.start")
    content = b"".join(message.get("body", b"") for message in got if message["type"] == "http.response.body")
    return Answer(start["status"], dict(start["headers"]), content)


def push_body(phone: Phone, action: str) -> bytes:
    """Of `POST /api/push`."""
    fields: dict[str, Any] = {"system": phone.provider, "action": action, "device_token": phone.token}
    if phone.provider == "apns" and action == "add":
        fields |= {"application_id": phone.application, "sandbox": phone.sandbox, "apns_topic": phone.topic}
    return msgspec.json.encode(fields)
