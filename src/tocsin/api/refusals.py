"""What the HTTP server refuses by itself, before any request of it reaches the application, and the answers to that."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from typing import Final

import msgspec

from tocsin.api.final_response import final_response
from tocsin.api.problems import PROBLEM_JSON, TYPE_PREFIX, Kind, ProblemBody

LONGEST_HEAD: Final = 64 * 1024


class Refusal(StrEnum):
    """Why a request, or a connection, was refused."""

    MALFORMED = "malformed"
    HEAD_TOO_LONG = "head too long"
    TOO_SLOW = "too slow"
    TOO_MANY_PIPELINED = "too many pipelined requests"
    FULL = "too many connections"
    ADDRESS_FULL = "too many connections of one address"
    HANDSHAKE = "no TLS handshake"


def malformed(detail: str) -> bytes:
    """The whole response to a request that is not HTTP as it should be."""
    return _answer(HTTPStatus.BAD_REQUEST, detail, TYPE_PREFIX + Kind.MALFORMED.slug, Kind.MALFORMED.title)


def _answer(
    status: HTTPStatus, detail: str, type_: str = "about:blank", title: str = "", retry_after_s: int | None = None
) -> bytes:
    """A problem as a whole response. The type `about:blank`: the status says it all."""
    body = msgspec.json.encode(ProblemBody(type_, title or status.phrase, status, detail))
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return final_response(status, PROBLEM_JSON, body, headers)


NOT_HTTP: Final = malformed("This is not HTTP.")
TUNNEL: Final = malformed("The server opens no tunnels.")
HEAD_TOO_LONG: Final = _answer(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"Address and headers are larger than {LONGEST_HEAD} bytes."
)
FULL: Final = _answer(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections. Try again later.", retry_after_s=1)
ADDRESS_FULL: Final = _answer(
    HTTPStatus.TOO_MANY_REQUESTS,
    "Too many connections from this address. Use those that are open.",
    TYPE_PREFIX + Kind.THROTTLED.slug,
    Kind.THROTTLED.title,
    retry_after_s=1,
)
