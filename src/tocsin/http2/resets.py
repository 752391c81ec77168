"""Streams that were closed before their response was complete."""

from __future__ import annotations

from ngh2 import ErrorCode, StreamClosed

from tocsin.http2.messages import Failure, FailureKind, Request


def may_be_resent(request: Request, closed: StreamClosed) -> bool:
    """Whether the request was certainly not processed (RFC 9113, 8.7); where it may have been, this sets its failure.

    A stream that was closed without an error after the status came has ended well, and gets no failure.
    """
    code = closed.error_code
    if request.status and code == ErrorCode.NO_ERROR:
        return False
    # A local error: the engine has not sent the request, or a GOAWAY has excluded its stream (RFC 9113, 6.8).
    if closed.local_error is not None or code == ErrorCode.REFUSED_STREAM:
        return True
    request.status = 0
    why = f"stream reset by the peer ({_error_name(code)})"
    request.failure = Failure(FailureKind.RESET, why, unknown=True)
    return False


def _error_name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"
