"""Google's errors, in Google's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tocsin.emulator.fcm_schema import Violation
from tocsin.http2.messages import Header
from tocsin.http2.server import Reply

_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_JSON: Final = (b"content-type", b"application/json; charset=UTF-8")
_HTML: Final = (b"content-type", b"text/html; charset=UTF-8")
_STATUS: Final = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
}  # fmt: skip
_HTML_404: Final = (
    b"<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error 404 (Not Found)!!1</title>\n"
    b"  <p><b>404.</b> <ins>That\xe2\x80\x99s an error.</ins>\n  <p>The requested URL was not found on this server."
    b"  <ins>That\xe2\x80\x99s all we know.</ins>\n"
)
_EXPECTED: Final = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential."
    " See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


class Rejected(Exception):  # noqa: N818 - it is an answer, not an error
    """A request that Google refuses; `code` is FCM's own error code, where the refusal is FCM's and not the front's."""

    def __init__(
        self, status: int, message: str, *, code: str = "", violations: Sequence[Violation] = (), info: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.violations = violations
        self.info = info

    @property
    def reason(self) -> str:
        return self.code or _STATUS.get(self.status, "UNKNOWN")

    def reply(self) -> Reply:
        if self.status == 404 and not self.code:
            return html_404()
        return error(self.status, self.message, code=self.code, violations=self.violations, info=self.info)


def error(status: int, message: str, *, code: str = "", violations: Sequence[Violation] = (), info: str = "") -> Reply:
    """`{"error": {code, message, status, details}}`."""
    details: list[dict[str, Any]] = []
    if code:
        details.append({"@type": _FCM_ERROR, "errorCode": code})
    if violations:
        details.append({"@type": _BAD_REQUEST, "fieldViolations": msgspec.to_builtins(violations)})
    if info:
        metadata = {"service": "fcm.googleapis.com", "method": "google.firebase.fcm.v1.FcmService.SendMessage"}
        details.append({"@type": _ERROR_INFO, "reason": info, "domain": "googleapis.com", "metadata": metadata})
    body: dict[str, Any] = {"code": status, "message": message, "status": _STATUS.get(status, "UNKNOWN")}
    if details:
        body["details"] = details
    headers: list[Header] = [_JSON]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="https://accounts.google.com/", error="invalid_token"'))
    return Reply(status, headers, msgspec.json.encode({"error": body}))


def html_404() -> Reply:
    """What answers where nothing lives: Google's page, not JSON."""
    return Reply(404, [_HTML], _HTML_404)


def not_found() -> Rejected:
    return Rejected(404, "Not Found")


def unauthenticated(*, missing: bool) -> Rejected:
    if missing:
        what = f"Request is missing required authentication credential. {_EXPECTED}"
        return Rejected(401, what, info="CREDENTIALS_MISSING")
    what = f"Request had invalid authentication credentials. {_EXPECTED}"
    return Rejected(401, what, info="ACCESS_TOKEN_TYPE_UNSUPPORTED")


def permission_denied(project: str) -> Rejected:
    resource = f"//cloudresourcemanager.googleapis.com/projects/{project}"
    return Rejected(
        403, f"Permission 'cloudmessaging.messages.create' denied on resource '{resource}' (or it may not exist)."
    )


def invalid_json(problem: str) -> Rejected:
    message = f"Invalid JSON payload received. {problem}"
    return Rejected(400, message, violations=[Violation("", message)])


def malformed(violations: Sequence[Violation]) -> Rejected:
    """What the front says of a request whose shape is wrong; FCM has not seen it."""
    return Rejected(400, "\n".join(violation.description for violation in violations), violations=violations)


def invalid_argument(message: str, field: str = "", description: str = "") -> Rejected:
    """What FCM says of a well-formed request that it will not send."""
    violations = [Violation(field, description or message)] if field else []
    return Rejected(400, message, code="INVALID_ARGUMENT", violations=violations)
