"""What Google's answers mean: every row of the table, on one page.

Source: Google, "FCM error codes" (ErrorCode, google.rpc.Status). Judged by `errorCode` first, then by `status`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.outcomes import Backoff
from tocsin.providers.answers import AT_ONCE, LINK_FAILURE, SLOWLY, UNREADABLE, name_of


class Act(Enum):
    DELIVERED = auto()
    TOKEN_DEAD = auto()
    JUDGE_FIELD = auto()
    """Dead when the violation is on the token's own field (after the other field was tried); else refused."""
    OTHER_PROJECT = auto()
    """With several projects, one of the others may be the token's sender; with one, the token is dead."""
    RETRY = auto()
    RATE = auto()
    """This device's rate, or the whole project's: the message tells."""
    NEW_ACCESS_TOKEN = auto()
    MISCONFIGURED = auto()
    MISCONFIGURED_DEVICE = auto()
    """About a device behind another push service, whose credential the Firebase project lacks."""


class Row(Struct, frozen=True):
    act: Act
    backoff: Backoff = LINK_FAILURE
    failure: bool = False


_RATE: Final = Row(Act.RATE, Backoff(60.0, 900.0, jitter=False))
_INTERNAL: Final = Row(Act.RETRY, LINK_FAILURE, failure=True)
# Google asks for at least 10 s before the first retry of a 503.
_UNAVAILABLE: Final = Row(Act.RETRY, Backoff(20.0, 600.0, floor_s=10.0), failure=True)

# Ordered: the first key that the answer has wins. (HTTP status, errorCode or status).
TABLE: Final[dict[tuple[int, str], Row]] = {
    (404, "UNREGISTERED"): Row(Act.TOKEN_DEAD),
    (400, "INVALID_ARGUMENT"): Row(Act.JUDGE_FIELD),
    (403, "SENDER_ID_MISMATCH"): Row(Act.OTHER_PROJECT),
    (403, "PERMISSION_DENIED"): Row(Act.MISCONFIGURED),
    (401, "UNAUTHENTICATED"): Row(Act.NEW_ACCESS_TOKEN, AT_ONCE),
    (401, "THIRD_PARTY_AUTH_ERROR"): Row(Act.MISCONFIGURED_DEVICE),
    (429, "QUOTA_EXCEEDED"): _RATE,
    (429, "RESOURCE_EXHAUSTED"): _RATE,
    (500, "INTERNAL"): _INTERNAL,
    (503, "UNAVAILABLE"): _UNAVAILABLE,
}

BY_STATUS: Final[dict[int, Row]] = {
    200: Row(Act.DELIVERED),
    400: Row(Act.JUDGE_FIELD),
    401: Row(Act.NEW_ACCESS_TOKEN, AT_ONCE),
    403: Row(Act.MISCONFIGURED),
    404: Row(Act.MISCONFIGURED),
    429: _RATE,
    500: _INTERNAL,
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _UNAVAILABLE,
}
"""Where the body is not JSON (Google's HTML pages) or names no code: by the HTTP status alone, which kills no token."""

# What the table leaves to the status on purpose is no surprise, and is not logged as one.
_EXPECTED_WITHOUT_CODE: Final = frozenset({404, 502, 503, 504})

UNKNOWN: Final = Row(Act.RETRY, SLOWLY)
"""An answer that the table does not describe: tried again slowly, counted, and logged."""


class ErrorBody(Struct, frozen=True):
    """The parts of google.rpc.Status that decide."""

    status: str = ""
    message: str = ""
    error_code: str = ""
    fields: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        return self.error_code or self.status


class _Status(Struct):
    status: str = ""
    message: str = ""
    details: list[dict[str, Any]] = []


class _Body(Struct):
    error: _Status


def read_body(body: bytes) -> ErrorBody:
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except UNREADABLE:
        return ErrorBody()
    code, fields = "", []
    for detail in error.details:
        kind = str(detail.get("@type", ""))
        if kind.endswith("FcmError"):
            code = str(detail.get("errorCode", ""))
        elif kind.endswith("BadRequest"):
            violations = detail.get("fieldViolations")
            violations = violations if isinstance(violations, list) else []
            fields += [str(violation.get("field", "")) for violation in violations if isinstance(violation, dict)]
    return ErrorBody(name_of(error.status), error.message, name_of(code), tuple(fields))


def find_row(status: int, body: ErrorBody) -> tuple[Row, bool]:
    """The row for an answer, and whether the answer is one that the table knows."""
    if status == 200:
        return BY_STATUS[200], True
    for code in (body.error_code, body.status):
        row = TABLE.get((status, code))
        if row is not None and code:
            return row, True
    return BY_STATUS.get(status, UNKNOWN), status in _EXPECTED_WITHOUT_CODE
