"""The failures of a request, and the problem (RFC 9457) that answers each of them.

`Kind` has all failures; status codes are decided nowhere else. No text here, and no `detail`, quotes a token, a key or
the content of an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec
from litestar import Response
from msgspec import UNSET, Struct, UnsetType

from tocsin.ingest.errors import Violation

PROBLEM_JSON: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:tocsin:problem:"
_NAMED: Final = 200


class Kind(Enum):
    """Every failure: (HTTP status, problem type, title, `status` in the platform's own convention).

    The three with status 200 are the named failures of `POST /api/push`: `{"status": "unknown-appid"}`. The last column
    is used for `/api/push` only.
    """

    UNKNOWN_APPID = (_NAMED, "unknown-appid", "Unknown application id", "unknown-appid")
    INVALID_APPID = (_NAMED, "invalid-appid", "Invalid application id", "invalid-appid")
    INVALID_APNS_TOPIC = (_NAMED, "invalid-apns-topic", "Invalid APNs topic", "invalid-apns-topic")

    WRONG_SYNTAX = (400, "bad-input", "Bad input", "wrong-syntax")
    MISSING_ELEMENT = (400, "bad-input", "Bad input", "missing-element")
    MALFORMED = (400, "malformed-request", "Malformed request", "fail")
    NO_SESSION = (401, "unauthenticated", "Not signed in", "no-session")
    NO_USER = (401, "unauthenticated", "Not signed in", "no-auth")
    NO_KEY = (401, "unauthenticated", "No valid key", "fail")
    FORBIDDEN = (403, "forbidden", "Not allowed with this key", "fail")
    READ_ONLY = (403, "read-only-key", "This key may only read", "fail")
    OTHER_AREA = (403, "area-not-allowed", "This key is for another area", "fail")
    OTHER_EVENT = (403, "event-not-allowed", "This key may not send this event", "fail")
    FOREIGN_PAGE = (403, "foreign-page", "Sent by a page of another site", "no-auth")
    NOT_FOUND = (404, "not-found", "Not found", "fail")
    WRONG_METHOD = (405, "method-not-allowed", "Method not allowed", "fail")
    TOO_SLOW = (408, "request-timeout", "Request took too long", "fail")
    CONFLICT = (409, "event-id-conflict", "Conflict", "fail")
    TOO_LARGE = (413, "too-large", "Too large", "fail")
    WRONG_CONTENT_TYPE = (415, "unsupported-media-type", "Unsupported media type", "fail")
    THROTTLED = (429, "throttled", "Too many requests", "fail")
    INTERNAL = (500, "internal-error", "Internal error", "fail")
    OVERLOADED = (503, "overloaded", "Overloaded", "fail")
    BACKLOG_FULL = (503, "backlog-full", "Backlog full", "fail")
    SIGN_IN_UNAVAILABLE = (503, "sign-in-unavailable", "Sign-in service unavailable", "fail")
    STORE_UNAVAILABLE = (503, "store-unavailable", "Store unavailable", "fail")
    OUTCOME_UNKNOWN = (503, "outcome-unknown", "Outcome unknown", "fail")

    def __init__(self, status: int, slug: str, title: str, platform: str) -> None:
        self.status = status
        self.slug = slug
        self.title = title
        self.platform = platform

    @classmethod
    def of_slug(cls, slug: str) -> Kind:
        """The failure of this problem type."""
        return next(kind for kind in cls if kind.slug == slug)

    @property
    def named(self) -> bool:
        """Whether `/api/push` answers it as `{"status": …}` with 200, in both conventions."""
        return self.status == _NAMED


class Problem(Struct, frozen=True):
    """One failure of one request, whatever the convention by which it is answered."""

    kind: Kind
    detail: str
    errors: tuple[Violation, ...] = ()
    retry_after_s: int | None = None
    allow: str | None = None
    events: tuple[str, ...] = ()
    """The ids to repeat the events with, where the outcome is unknown."""


class ProblemBody(Struct, frozen=True, omit_defaults=True):
    """A problem as RFC 9457 defines it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Violation] | UnsetType = UNSET
    events: list[str] | UnsetType = UNSET
    """Only with `outcome-unknown`: the ids to repeat the events with."""


class RequestError(Exception):
    """The request fails with this problem. Raised anywhere in the API; `failures` answers it."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *errors: Violation,
        retry_after_s: int | None = None,
        events: Sequence[str] = (),
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(kind, detail, errors, retry_after_s, events=tuple(events))


def bad_input(at: str, reason: str, kind: Kind = Kind.WRONG_SYNTAX) -> RequestError:
    """The error for input with one violation."""
    return RequestError(kind, f"{at}: {reason}", Violation(at=at, reason=reason))


def response_headers(problem: Problem) -> dict[str, str]:
    """The headers of a problem, in every convention."""
    headers = {"cache-control": "no-store"}
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(problem.retry_after_s)
    if problem.allow is not None:
        headers["allow"] = problem.allow
    return headers


def problem_response(problem: Problem) -> Response[bytes]:
    """A problem as `application/problem+json`."""
    kind = problem.kind
    body = ProblemBody(
        TYPE_PREFIX + kind.slug,
        kind.title,
        kind.status,
        problem.detail,
        list(problem.errors) or UNSET,
        list(problem.events) or UNSET,
    )
    headers = response_headers(problem)
    if kind.status == 401:
        headers["www-authenticate"] = "Bearer"
    if kind is Kind.TOO_SLOW:
        headers["connection"] = "close"
    return Response(msgspec.json.encode(body), status_code=kind.status, media_type=PROBLEM_JSON, headers=headers)
