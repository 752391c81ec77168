"""Publishes what is refused to the subject for refusals, with the reason, before the message is given up."""

from __future__ import annotations

import json
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from tocsin.ingest.errors import IngestError

_PUBLISH_S: Final = 5.0
_HEADERS_BYTES: Final = 2048
"""What the server may count beside the headers that are given here."""
_LONGEST_PROBLEM_BYTES: Final = 8192


class RefusalNotStored(Exception):  # noqa: N818
    """The refusal is not in a stream; the message says why. What was refused is kept."""


class Refusals:
    def __init__(self, client: Client, js: JetStreamContext, subject: str) -> None:
        self._client = client
        self._js = js
        self._subject = subject

    async def publish(self, message: Msg, error: IngestError) -> None:
        """Store a refusal: the message as it came, and why in its headers. A repeated one is stored once, as
        long as the stream remembers (`duplicate_window`).

        Raises:
            RefusalNotStored: no stream has acknowledged it.
        """
        place = message.metadata
        headers = {
            "Nats-Msg-Id": f"tocsin-refusal-{place.stream}-{place.sequence.stream}",
            "Tocsin-Status": str(error.why.status),
            "Tocsin-Problem": _problem(error),
            "Tocsin-Stream": place.stream,
            "Tocsin-Sequence": str(place.sequence.stream),
            "Tocsin-Subject": message.subject,
        }
        if named := (message.headers or {}).get("Nats-Msg-Id"):
            headers["Tocsin-Msg-Id"] = named
        body = message.data
        header_bytes = sum([len(name) + len(value.encode()) + 4 for name, value in headers.items()]) + _HEADERS_BYTES
        if len(body) + header_bytes > self._client.max_payload:
            headers["Tocsin-Body"] = "left out: too large beside these headers; it is in the stream"
            body = b""
        try:
            await self._js.publish(self._subject, body, timeout=_PUBLISH_S, headers=headers)
        except Exception as failure:
            raise RefusalNotStored(str(failure).removeprefix("nats: ") or type(failure).__name__) from None


def _problem(error: IngestError) -> str:
    """As `application/problem+json` would say it over HTTP."""
    problem = {
        "type": f"urn:tocsin:problem:{error.why.slug}",
        "title": error.why.title,
        "status": error.why.status,
        "detail": error.detail,
        "errors": error.violations,
    }
    text = _ascii(problem)
    return text if len(text) <= _LONGEST_PROBLEM_BYTES else _ascii(problem | {"errors": error.violations[:1]})


def _ascii(problem: dict[str, object]) -> str:
    """JSON that may stand in a header."""
    return json.dumps(msgspec.to_builtins(problem))
