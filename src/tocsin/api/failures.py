"""Turns whatever was raised while a request was served into one problem, and has it told by the route's convention."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from traceback import format_exception
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, SerializationException, ValidationException

from tocsin.api.problems import Fault, Kind, Problem, RequestError, told_name
from tocsin.store.ports import BacklogFull, StoreUnavailable

log = structlog.get_logger(__name__)

Tell = Callable[[Problem], Response[bytes]]
STORE_RETRY_AFTER_S: Final = 5
_QUOTED = re.compile(r"Invalid (enum )?value .*", re.DOTALL)
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<field>[^`]*)`")
_MISSING_PARAMETER = re.compile(r"^Missing required \w+ parameter '(?P<name>\w+)'")
_AT = re.compile(r" - at `\$?(?P<at>[^`]*)`$")
_BY_STATUS: Final = {404: Kind.NOT_FOUND, 413: Kind.TOO_LARGE, 415: Kind.WRONG_CONTENT_TYPE, 429: Kind.THROTTLED}
_DETAILS: Final = {
    Kind.NOT_FOUND: "There is nothing at this address.",
    Kind.TOO_LARGE: "The body is too large.",
    Kind.WRONG_CONTENT_TYPE: "The body must be JSON.",
    Kind.THROTTLED: "Too many requests.",
}


class Failures:
    """The application's exception handlers. `by_path` names the routes that tell their problems in their own way."""

    def __init__(self, tell: Tell, by_path: Mapping[str, Tell]) -> None:
        self._tell = tell
        self._by_path = by_path

    def handlers(self) -> dict[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[bytes]]]:
        return {Exception: self.answer}

    def answer(self, request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        path = request.scope["path"]
        return self._by_path.get(path, self._tell)(problem_of(error, path))


def problem_of(error: Exception, path: str) -> Problem:
    """The problem that an exception stands for. `path` is for the log, without the query, which may carry a secret."""
    match error:
        case RequestError():
            return error.problem
        case BacklogFull():
            detail = "Too many events are waiting to be delivered; nothing was accepted. Try again later."
            return Problem(Kind.BACKLOG_FULL, detail, retry_after_s=error.retry_after_s)
        case StoreUnavailable():
            detail = "The store cannot be used at present; nothing was changed. Try again later."
            return Problem(Kind.STORE_UNAVAILABLE, detail, retry_after_s=STORE_RETRY_AFTER_S)
        case MethodNotAllowedException():
            allow = (error.headers or {}).get("allow", "")
            return Problem(Kind.WRONG_METHOD, "This address does not know the method.", allow=with_head(allow))
        case ValidationException():
            return _invalid(
                [_fault(extra) for extra in error.extra or () if isinstance(extra, dict)] or _missing(error)
            )
        case HTTPException() if isinstance(error.__cause__, SerializationException):
            return _invalid([Fault(at="$", reason="not valid JSON")])
        case HTTPException() if error.status_code < 500:
            kind = _BY_STATUS.get(error.status_code, Kind.MALFORMED)
            return Problem(kind, _DETAILS.get(kind, "The request is malformed."))
        case _:
            incident = secrets.token_hex(4)
            # As text: a renderer that shows local variables would show the caller's secret.
            trace = "".join(format_exception(error))
            log.error("a request failed unexpectedly", incident=incident, path=path, traceback=trace)
            return Problem(Kind.INTERNAL, f"Something went wrong here; the server's log has it as {incident}.")


def with_head(allow: str) -> str:
    """An `Allow` list with HEAD, which is answered wherever GET is."""
    methods = {method.strip() for method in allow.split(",")} - {""}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _invalid(faults: list[Fault]) -> Problem:
    return Problem(Kind.WRONG_SYNTAX, f"{faults[0].at}: {faults[0].reason}", tuple(faults))


def _missing(error: ValidationException) -> list[Fault]:
    """A parameter is missing. Litestar's own words quote the whole URL."""
    named = _MISSING_PARAMETER.search(error.detail)
    return [Fault(at=f"?{named['name']}" if named else "$", reason="missing" if named else "breaks the schema")]


def _fault(extra: dict[str, Any]) -> Fault:
    """One of Litestar's validation errors, as this API puts it: `$.field` in a body, `?name` in a query."""
    message, key = str(extra.get("message", "invalid")), str(extra.get("key", "")).removeprefix("data")
    at = f"?{key}" if extra.get("source") == "query" else "$" + "".join(f".{part}" for part in key.split(".") if part)
    if path := _AT.search(message):
        message, at = message[: path.start()], at if key else f"${path['at']}"
    if field := _FIELD.match(message):
        at, message = f"{at}.{told_name(field['field'])}", "missing" if "missing" in field["how"] else "unknown field"
    return Fault(at=at, reason=_QUOTED.sub("not one of the allowed values", message))
