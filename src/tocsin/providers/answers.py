"""What the tables of both providers have in common: links that fail, Retry-After, answers that nobody has described."""

from __future__ import annotations

from typing import Final

import structlog

from tocsin.domain.outcomes import Answer, Backoff, RetryLater, Scope
from tocsin.http2.messages import Failure, FailureKind, Request

log = structlog.get_logger(__name__)

AT_ONCE: Final = Backoff(0.0, 300.0)
LINK_FAULT: Final = Backoff(2.0, 300.0)
"""Connection lost, reset, timeout; and a provider's own fault where it names no time."""


def no_answer(failure: Failure) -> RetryLater:
    """What a request without an answer means. What fails with its connection is one fault, however much it is."""
    return RetryLater(
        Answer(0, failure.detail),
        LINK_FAULT,
        scope=Scope.LANE,
        fault=True,
        shared_fault=failure.kind in (FailureKind.LOST, FailureKind.CONNECT),
        unknown=failure.unknown,
    )


def retry_after_s(request: Request) -> float | None:
    """The answer's Retry-After in seconds (RFC 9110, 10.2.3), where it has one."""
    value = request.response_header(b"retry-after")
    return float(value) if value is not None and value.isdigit() else None


def authorization_of(request: Request) -> bytes | None:
    """The credential that a request was sent with: it may have been renewed since."""
    return next((value for name, value in request.headers if name == b"authorization"), None)


def log_unknown(provider: str, request: Request, reason: str, treated_as: str) -> None:
    """An answer that the provider's table does not know, with its body."""
    log.error(
        f"{provider}: unknown answer",
        status=request.status,
        reason=reason,
        body=request.response_body[:1000].decode("utf-8", "replace"),
        treated_as=treated_as.lower(),
    )
