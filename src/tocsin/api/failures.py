"""Turns an exception that was raised while a request was served into a problem, and that into a response."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from traceback import format_exception
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, ValidationException

from tocsin.api.problems import Kind, Problem, RequestError
from tocsin.domain.json_errors import NOT_ALLOWED
from tocsin.ingest.errors import IngestError, Violation, larger_than_the_backlog
from tocsin.store.ports import BacklogFull, BatchTooLarge, CommitUnknown, StoreError, StoreUnavailable

log = structlog.get_logger(__name__)

Respond = Callable[[Problem], Response[bytes]]

NO_SUCH_ADDRESS: Final = Problem(Kind.NOT_FOUND, "There is nothing at this address.")
STORE_RETRY_AFTER_S: Final = 5
_QUOTED = re.compile(r"Invalid (enum )?value .*", re.DOTALL)
_MISSING_PARAMETER = re.compile(r"^Missing required \w+ parameter '(?P<name>\w+)'")
_BY_STATUS: Final = {404: Kind.NOT_FOUND, 413: Kind.TOO_LARGE, 415: Kind.WRONG_CONTENT_TYPE, 429: Kind.THROTTLED}
_DETAILS: Final = {
    Kind.NOT_FOUND: NO_SUCH_ADDRESS.detail,
    Kind.TOO_LARGE: "The body is too large.",
    Kind.WRONG_CONTENT_TYPE: "The body must be JSON.",
    Kind.THROTTLED: "Too many requests.",
}


class Failures:
    """The application's exception handlers. `by_path` has the paths that respond to a problem in their own way."""

    def __init__(self, respond: Respond, by_path: Mapping[str, Respond]) -> None:
        self._respond = respond
        self._by_path = by_path

    def handlers(self) -> dict[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[bytes]]]:
        return {Exception: self.response}

    def response(self, request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        path = request.scope["path"]
        return self._by_path.get(path, self._respond)(problem_of(error, path))


def problem_of(error: Exception, path: str) -> Problem:
    """The problem that an exception stands for. `path` is logged; the query is not, as it may have a secret."""
    match error:
        case RequestError():
            return error.problem
        case BacklogFull():
            detail = "Too many events are waiting to be delivered; nothing was accepted. Try again later."
            return Problem(Kind.BACKLOG_FULL, detail, retry_after_s=error.retry_after_s)
        case IngestError():
            return Problem(Kind.of_slug(error.why.slug), error.detail, error.violations)
        case BatchTooLarge():
            return problem_of(larger_than_the_backlog(error), path)
        case StoreUnavailable():
            detail = "The store cannot be used at present; nothing was changed. Try again later."
            return Problem(Kind.STORE_UNAVAILABLE, detail, retry_after_s=STORE_RETRY_AFTER_S)
        case StoreError():
            # A master key that is missing, say. The operator finds the reason in the log; it is not the caller's.
            log.error("the store cannot be used", path=path, error=str(error))
            return problem_of(StoreUnavailable(str(error)), path)
        case CommitUnknown():
            detail = "It is not known whether the request took effect. Repeating it is safe."
            return Problem(Kind.OUTCOME_UNKNOWN, detail, retry_after_s=STORE_RETRY_AFTER_S)
        case MethodNotAllowedException():
            allow = (error.headers or {}).get("allow", "")
            return Problem(Kind.WRONG_METHOD, "This address does not have this method.", allow=with_head(allow))
        case ValidationException():
            return _invalid(
                [_violation(extra) for extra in error.extra or () if isinstance(extra, dict)] or _missing(error)
            )
        case HTTPException() if error.status_code < 500:
            kind = _BY_STATUS.get(error.status_code, Kind.MALFORMED)
            return Problem(kind, _DETAILS.get(kind, "The request is malformed."))
        case _:
            incident = secrets.token_hex(4)
            # As text: a log renderer that shows local variables would show the caller's secret.
            trace = "".join(format_exception(error))
            log.error("a request failed unexpectedly", incident=incident, path=path, traceback=trace)
            return Problem(Kind.INTERNAL, f"Unexpected error; the server's log has the details under {incident}.")


def with_head(allow: str) -> str:
    """An `Allow` list with HEAD, which is answered wherever GET is."""
    methods = {method.strip() for method in allow.split(",")} - {""}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _invalid(violations: list[Violation]) -> Problem:
    return Problem(Kind.WRONG_SYNTAX, f"{violations[0].at}: {violations[0].reason}", tuple(violations))


def _missing(error: ValidationException) -> list[Violation]:
    """A parameter is missing. Litestar's own message quotes the whole URL."""
    named = _MISSING_PARAMETER.search(error.detail)
    return [Violation(at=f"?{named['name']}" if named else "$", reason="missing" if named else "breaks the schema")]


def _violation(extra: dict[str, Any]) -> Violation:
    """One of Litestar's validation errors: of a parameter in the query (`?name`) or in the path (`{name}`)."""
    message, key = str(extra.get("message", "invalid")), str(extra.get("key", ""))
    at = f"?{key}" if extra.get("source") == "query" else f"{{{key}}}"
    return Violation(at=at, reason=_QUOTED.sub(NOT_ALLOWED, message))
