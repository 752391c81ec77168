"""The errors with which Google answers, in the format and wording of its API.

Source: Google, "FCM Error Codes" and "REST Resource: projects.messages"; AIP-193 for the format.
"""

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


class FcmRefusal(Exception):  # noqa: N818 - the name says what Google does, and is not an error of the emulator
    """Raised by a check when Google refuses the request; `reply` is the answer.

    `code` is FCM's error code. It is empty if not FCM but Google's API front end refuses, which comes before FCM.
    `info` is the reason of an ErrorInfo detail; empty for none.
    """

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
        """The reason that is counted: FCM's error code, or else Google's name of the status."""
        return self.code or _STATUS.get(self.status, "UNKNOWN")

    def reply(self) -> Reply:
        """The answer to the request."""
        if self.status == 404 and not self.code:
            return html_404()
        return error_reply(self.status, self.message, code=self.code, violations=self.violations, info=self.info)


def error_reply(
    status: int, message: str, *, code: str = "", violations: Sequence[Violation] = (), info: str = ""
) -> Reply:
    """An answer with the body `{"error": {code, message, status, details}}`; the arguments are as for `FcmRefusal`."""
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
    """Google's answer for an unknown URL: an HTML page, not JSON."""
    return Reply(404, [_HTML], _HTML_404)


def not_found() -> FcmRefusal:
    """The refusal of an unknown path or method."""
    return FcmRefusal(404, "Not Found")


def unauthenticated(*, missing: bool) -> FcmRefusal:
    """The refusal of a missing or invalid access token."""
    if missing:
        message = f"Request is missing required authentication credential. {_EXPECTED}"
        return FcmRefusal(401, message, info="CREDENTIALS_MISSING")
    message = f"Request had invalid authentication credentials. {_EXPECTED}"
    return FcmRefusal(401, message, info="ACCESS_TOKEN_TYPE_UNSUPPORTED")


def permission_denied(project: str) -> FcmRefusal:
    """The refusal of a project that the access token does not belong to."""
    resource = f"//cloudresourcemanager.googleapis.com/projects/{project}"
    return FcmRefusal(
        403, f"Permission 'cloudmessaging.messages.create' denied on resource '{resource}' (or it may not exist)."
    )


def invalid_json(problem: str) -> FcmRefusal:
    """The refusal of a body that is not a JSON object."""
    message = f"Invalid JSON payload received. {problem}"
    return FcmRefusal(400, message, violations=[Violation("", message)])


def malformed(violations: Sequence[Violation]) -> FcmRefusal:
    """The refusal by Google's API front end of a request that does not fit the schema."""
    return FcmRefusal(400, "\n".join(violation.description for violation in violations), violations=violations)


def invalid_argument(message: str, field: str = "", description: str = "") -> FcmRefusal:
    """The refusal by FCM of a request that fits the schema."""
    violations = [Violation(field, description or message)] if field else []
    return FcmRefusal(400, message, code="INVALID_ARGUMENT", violations=violations)
