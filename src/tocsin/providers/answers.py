"""What the tables of all providers have in common: links that fail, Retry-After, answers that nobody has described."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from tocsin.domain.outcomes import Answer, Backoff, Outcome, RetryLater, Withdrawn
from tocsin.http2.messages import Failure, FailureKind, Request

log = structlog.get_logger(__name__)


R = TypeVar("R", bound=Request)

AT_ONCE: Final = Backoff(0.0, 300.0)
LINK_FAILURE: Final = Backoff(2.0, 300.0)
"""Connection lost, reset, timeout; and a provider's own failure where it names no time."""

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a body that is not what it should be, or not even JSON."""
WITHDRAWN: Final = Withdrawn(Answer(0, "not sent"))
SLOWLY: Final = Backoff(60.0, 900.0)
"""For an answer that no table describes, or that cannot be read."""
_LONGEST_RETRY_AFTER_S: Final = 3600.0
NO_NAME: Final = "not a name"
_NAME: Final = re.compile(r"[A-Za-z_]{0,48}")
_FIELD: Final = re.compile(r"[A-Za-z_]{1,48}(?:\[\d{1,4}\]|\.[A-Za-z_]{1,48}){0,10}")
_LONGEST_ID: Final = 200


def no_answer(failure: Failure) -> Outcome:
    """What a request without an answer means. What fails with its connection is one failure, however much it is."""
    if failure.kind is FailureKind.WITHDRAWN:
        return WITHDRAWN
    return RetryLater(
        Answer(0, failure.detail),
        LINK_FAILURE,
        failure=True,
        shared_failure=failure.kind in (FailureKind.LOST, FailureKind.CONNECT),
        unknown=failure.unknown,
    )


def retry_after_s(request: Request, now_s: float) -> float | None:
    """The answer's Retry-After in seconds (RFC 9110, 10.2.3: seconds or a date), where it has one that can be read.

    0 and a date in the past ask for nothing: None. An hour at most: what lies further ahead may be a mistake, so the
    provider is asked again every hour.
    """
    value = request.response_header(b"retry-after")
    if value is None:
        return None
    try:
        wait_s = int(value) if value.isdigit() else parsedate_to_datetime(value.decode()).timestamp() - now_s
    except (ValueError, TypeError, OverflowError):
        return None
    return float(min(wait_s, _LONGEST_RETRY_AFTER_S)) if wait_s > 0 else None


def name_of(error: str) -> str:
    """What a provider calls an error, as it is recorded, counted and logged: a word of letters, as all that are
    documented. Anything else could be of any length, different each time, and quote a device token or a content."""
    return error if _NAME.fullmatch(error) else NO_NAME


def field_of(path: str) -> str:
    """A field of a request that a provider names, as it is logged: names with dots and indexes between them
    (`message.android.ttl`). Anything else could quote a device token or a content."""
    return path if _FIELD.fullmatch(path) else NO_NAME


def id_of(message: str) -> str:
    """What a provider calls a message, as it is recorded; empty where it is no id."""
    return message if len(message) <= _LONGEST_ID and message.isascii() and message.isprintable() else ""


def judged(provider: str, judge: Callable[[R], Outcome], request: R) -> Outcome:
    """What `judge` says; where it fails, for a mistake of ours, this delivery is tried again and the others go on."""
    try:
        return judge(request)
    except Exception:
        log.exception(f"{provider}: answer cannot be judged", status=request.status)
        return RetryLater(Answer(request.status, "answer cannot be judged"), SLOWLY)


def authorization_of(request: Request) -> bytes | None:
    """The credential that a request was sent with: it may have been renewed since."""
    return next((value for name, value in request.headers if name == b"authorization"), None)


class DoubtfulToken(Protocol):
    """A provider's or access token that was called expired."""

    def accepted(self, used: bytes | None) -> None: ...


def note_accepted(requests: Iterable[Request], token: DoubtfulToken) -> None:
    """Tell a token that is in doubt by which credentials requests were accepted."""
    for request in requests:
        if request.status == 200:
            token.accepted(authorization_of(request))


def log_unknown(provider: str, request: Request, reason: str, treated_as: str) -> None:
    """An answer that the provider's table does not know. Its body is not logged: it may quote the content."""
    log.error(
        f"{provider}: unknown answer",
        status=request.status,
        reason=reason,
        body_bytes=len(request.response_body),
        treated_as=treated_as.lower(),
    )
