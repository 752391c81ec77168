"""Google's FCM HTTP v1, as strict as it is.

Source: Google, "REST Resource: projects.messages"; the wording of its errors as the service answers them.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any, Final

import msgspec

from tocsin.emulator.faults import Faults, Rule, scripted_headers
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.oauth import OAuthHandler
from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Reply

DATA_LIMIT_BYTES: Final = 4096
_PATH: Final = re.compile(rb"/v1/projects/([^/]+)/messages:send")
_DURATION: Final = re.compile(r"\d+(\.\d{1,9})?s")
_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_TARGETS: Final = ("token", "fid", "topic", "condition")
_MESSAGE_FIELDS: Final = {
    "name": str, "data": dict, "notification": dict, "android": dict, "webpush": dict, "apns": dict,
    "fcm_options": dict, "token": str, "fid": str, "topic": str, "condition": str,
}  # fmt: skip
_ANDROID_FIELDS: Final = {
    "collapse_key": str, "priority": str, "ttl": str, "restricted_package_name": str, "data": dict,
    "notification": dict, "fcm_options": dict, "direct_boot_ok": bool, "bandwidth_constrained_ok": bool,
    "restricted_satellite_ok": bool,
}  # fmt: skip
_TYPE_NAMES: Final = {str: "TYPE_STRING", bool: "TYPE_BOOL", dict: "TYPE_MESSAGE"}
_RESERVED: Final = frozenset({"from", "message_type", "gcm"})
_STATUS_NAMES: Final = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
}  # fmt: skip
_HTML_404: Final = (
    b"<!DOCTYPE html>\n<html lang=en>\n<title>Error 404 (Not Found)!!1</title>\n"
    b"<p>The requested URL was not found on this server. That's all we know.\n"
)
# Google's own JSON names work too (lowerCamelCase), as in every one of its APIs.
_CAMEL: Final = re.compile(r"(?<=[a-z])([A-Z])")

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class _Wrong(Exception):
    def __init__(self, status: int, message: str, *, code: str = "", field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field


class FcmHandler:
    def __init__(self, project: str, oauth: OAuthHandler, inbox: Inbox, faults: Faults) -> None:
        self._project = project
        self._path = f"/v1/projects/{project}/messages:send".encode()
        self._oauth = oauth
        self._inbox = inbox
        self._faults = faults
        self._serial = secrets.randbelow(10**6)

    def __call__(self, exchange: Exchange) -> Reply | None:
        fields = dict(exchange.headers)
        try:
            message, validate_only = self._check(exchange, fields)
        except _Wrong as wrong:
            message, validate_only, refusal = {}, True, self._refusal(wrong)
        else:
            refusal = None
        rule = None
        if self._faults.active:
            path = fields.get(b":path", b"").split(b"/")
            project = path[3].decode("latin-1") if len(path) > 3 else ""
            token = str(message.get("token") or message.get("fid") or "")
            rule = self._faults.find("fcm", exchange=exchange, token=token, project=project)
            if rule is not None and (rule.status not in (None, 200) or rule.html_404 or rule.expire_tokens):
                scripted = _scripted(rule)
                self._inbox.count("fcm", None, scripted.status, rule.reason)
                return self._faults.act(rule, exchange, scripted, scripted)
        if refusal is not None:
            return refusal if rule is None else self._faults.act(rule, exchange, refusal, None)
        self._serial += 1
        id = b"0:%d%%%016x" % (int(time.time() * 1e6), self._serial)
        if not validate_only and (rule is None or self._faults.takes(rule)):
            token = str(message.get("token") or message.get("fid") or message.get("topic") or "")
            headers = [header for header in exchange.headers if header[0] != b"authorization"]
            self._inbox.accept("fcm", None, token.encode(), id, headers, exchange.body)
        self._inbox.count("fcm", None, 200, "")
        reply = _json(200, {"name": f"projects/{self._project}/messages/{id.decode()}"})
        if rule is not None:
            return self._faults.act(rule, exchange, reply, None)
        return self._faults.delayed(exchange, reply) if self._faults.active else reply

    def _check(self, exchange: Exchange, fields: dict[bytes, bytes]) -> tuple[dict[str, Any], bool]:
        path = fields.get(b":path", b"").partition(b"?")[0]
        match = None
        if path != self._path:
            match = _PATH.fullmatch(path)
            if match is None:
                raise _Wrong(404, "")
        if fields.get(b":method") != b"POST":
            raise _Wrong(404, "")
        authorization = fields.get(b"authorization", b"")
        if authorization[:7].lower() == b"bearer ":
            authorization = b"Bearer " + authorization[7:]
        if not self._oauth.is_good(authorization):
            raise _Wrong(
                401,
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other"
                " valid authentication credential.",
            )
        if match is not None:
            raise _Wrong(
                403,
                "Permission 'cloudmessaging.messages.create' denied on resource"
                f" '//cloudresourcemanager.googleapis.com/projects/{match[1].decode('latin-1')}' (or it may not exist).",
            )
        try:
            body = _decode(exchange.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise _Wrong(400, "Invalid JSON payload received. Unexpected token.") from None
        for key in body:
            if key not in ("message", "validate_only", "validateOnly"):
                raise _Wrong(
                    400, f"Invalid JSON payload received. Unknown name {_quoted(key)}: Cannot find field.", field=key
                )
        message = body.get("message")
        if not isinstance(message, dict):
            raise _Wrong(400, "Message not set.", code="INVALID_ARGUMENT", field="message")
        _check_fields(message, _MESSAGE_FIELDS, "message")
        message = {_snake(key): value for key, value in message.items()}
        targets = [target for target in _TARGETS if message.get(target)]
        if len(targets) != 1:
            what = "Exactly one of token, fid, topic or condition is required"
            raise _Wrong(400, what, code="INVALID_ARGUMENT", field="message")
        self._check_data(message.get("data"), "message.data")
        if "android" in message:
            self._check_android(message["android"])
        return message, bool(body.get("validate_only") or body.get("validateOnly"))

    def _check_data(self, data: dict[str, Any] | None, at: str) -> None:
        if not data:
            return
        size = 0
        for key, value in data.items():
            if type(value) is not str:
                shown = value if isinstance(value, str) else _encode(value).decode()
                raise _Wrong(
                    400,
                    f"Invalid value at '{at}[{len(data) - 1}].value' (TYPE_STRING), {shown}",
                    field=f"{at}[0].value",
                )
            if key in _RESERVED or key.startswith(("google.", "gcm.")):
                raise _Wrong(400, f"Invalid data payload key: {key}", code="INVALID_ARGUMENT", field=f"{at}.{key}")
            size += len(key.encode()) + len(value.encode())
        if size > DATA_LIMIT_BYTES:
            raise _Wrong(400, "Message too big", code="INVALID_ARGUMENT", field=at)

    def _check_android(self, android: dict[str, Any]) -> None:
        _check_fields(android, _ANDROID_FIELDS, "message.android")
        ttl = android.get("ttl")
        if ttl is not None and (_DURATION.fullmatch(ttl) is None or float(ttl[:-1]) > 2_419_200):
            at = "message.android.ttl"
            raise _Wrong(
                400, f"Invalid value at '{at}' (type.googleapis.com/google.protobuf.Duration), \"{ttl}\"", field=at
            )
        priority = android.get("priority")
        if priority is not None and priority.upper() not in ("HIGH", "NORMAL"):
            at = "message.android.priority"
            raise _Wrong(
                400,
                f"Invalid value at '{at}' (type.googleapis.com/google.firebase.fcm.v1.AndroidMessagePriority), \"{priority}\"",
                field=at,
            )
        self._check_data(android.get("data"), "message.android.data")

    def _refusal(self, wrong: _Wrong) -> Reply:
        status = wrong.status
        if status == 404:
            self._inbox.count("fcm", None, 404, "html")
            return Reply(404, [(b"content-type", b"text/html; charset=UTF-8")], _HTML_404)
        self._inbox.count("fcm", None, status, wrong.code or _STATUS_NAMES[status])
        return error_reply(status, wrong.code, str(wrong), wrong.field)


def error_reply(status: int, code: str, message: str, field: str | None, headers: list[Header] | None = None) -> Reply:
    """An error in Google's shape."""
    details: list[dict[str, Any]] = []
    if code:
        details.append({"@type": _FCM_ERROR, "errorCode": code})
    if field:
        details.append({"@type": _BAD_REQUEST, "fieldViolations": [{"field": field, "description": message}]})
    error: dict[str, Any] = {"code": status, "message": message, "status": _STATUS_NAMES.get(status, "UNKNOWN")}
    if details:
        error["details"] = details
    return _json(status, {"error": error}, headers)


def _check_fields(value: dict[str, Any], known: dict[str, type], at: str) -> None:
    for key, field in value.items():
        kind = known.get(_snake(key))
        if kind is None:
            raise _Wrong(
                400,
                f"Invalid JSON payload received. Unknown name {_quoted(key)} at '{at}': Cannot find field.",
                field=at,
            )
        if type(field) is not kind:
            shown = _encode(field).decode()
            raise _Wrong(400, f"Invalid value at '{at}.{key}' ({_TYPE_NAMES[kind]}), {shown}", field=f"{at}.{key}")


def _scripted(rule: Rule) -> Reply:
    headers = scripted_headers(rule)
    if rule.html_404:
        return Reply(404, [(b"content-type", b"text/html; charset=UTF-8"), *headers], _HTML_404)
    if rule.expire_tokens:
        return error_reply(401, "", "Request had invalid authentication credentials.", None, headers)
    assert rule.status is not None
    if rule.body is not None:
        return Reply(rule.status, headers, rule.body.encode())
    code = rule.reason
    return error_reply(rule.status, code, rule.message or f"Scripted: {rule.reason}", rule.field, headers)


def _json(status: int, value: dict[str, Any], headers: list[Header] | None = None) -> Reply:
    return Reply(status, [(b"content-type", b"application/json; charset=UTF-8"), *(headers or [])], _encode(value))


def _snake(key: str) -> str:
    return _CAMEL.sub(lambda match: "_" + match[1].lower(), key)


def _quoted(key: str) -> str:
    return _encode(key).decode()
