"""Google's FCM HTTP v1, as strict as it is.

Source: Google, "REST Resource: projects.messages"; the wording of its errors as the service answers them.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from tocsin.emulator.acting import Faults, Subject
from tocsin.emulator.faults import Rule
from tocsin.emulator.fcm_errors import Rejected, error, html_404, not_found, permission_denied, unauthenticated
from tocsin.emulator.fcm_message import SendRequest, read_request
from tocsin.emulator.fcm_schema import Violation
from tocsin.emulator.frames import Frames, Reading
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.oauth import OAuthHandler
from tocsin.emulator.tally import Tally
from tocsin.http2.server import Exchange, Reply

_PATH: Final = re.compile(rb"/v1/projects/([^/]+)/messages:send")
_JSON: Final = ((b"content-type", b"application/json; charset=UTF-8"),)


class FcmHandler:
    """Messages to one project."""

    def __init__(self, project: str, oauth: OAuthHandler, inbox: Inbox, tally: Tally, faults: Faults) -> None:
        self._project = project.encode()
        self._path = f"/v1/projects/{project}/messages:send".encode()
        self._oauth = oauth
        self._inbox = inbox
        self._tally = tally
        self._faults = faults
        self._frames = Frames(b":path", b"content-length")
        self._serial = secrets.randbelow(10**6)

    def __call__(self, exchange: Exchange) -> Reply | None:
        reading = self._frames.read(exchange)
        try:
            self._check_caller(reading)
            request = read_request(exchange.body)
        except Rejected as rejected:
            return (
                self._with_faults(exchange, reading, None, rejected) if self._faults.active else self._refuse(rejected)
            )
        if self._faults.active:
            return self._with_faults(exchange, reading, request, None)
        return self._success(exchange, reading, request)

    def _check_caller(self, reading: Reading) -> None:
        fields = reading.frame.fields
        path = reading.values[0] or b""
        project = b""
        if path != self._path:
            path = path.partition(b"?")[0]
            match = _PATH.fullmatch(path)
            if match is None:
                raise not_found()
            project = match[1] if path != self._path else b""
        if fields.get(b":method") != b"POST":
            raise not_found()
        authorization = fields.get(b"authorization", b"")
        if not self._oauth.is_good(authorization):
            raise unauthenticated(missing=not authorization)
        if project:
            raise permission_denied(project.decode("latin-1"))

    def _success(self, exchange: Exchange, reading: Reading, request: SendRequest) -> Reply:
        self._tally.answers["fcm", None, 200, ""] += 1
        if request.validate_only:
            return self._named(b"fake_message_id")
        id = self._new_id()
        self._accept(exchange, reading, request, id)
        return self._named(id)

    def _accept(self, exchange: Exchange, reading: Reading, request: SendRequest, id: bytes) -> None:
        self._inbox.accept("fcm", None, request.message.target.encode(), id, reading, exchange.body)

    def _named(self, id: bytes) -> Reply:
        return Reply(200, _JSON, b'{"name":"projects/%b/messages/%b"}' % (self._project, id))

    def _new_id(self) -> bytes:
        self._serial += 1
        return b"0:%d%%%016x" % (int(time.time() * 1e6), self._serial)

    def _refuse(self, rejected: Rejected) -> Reply:
        self._tally.count("fcm", None, rejected.status, rejected.reason)
        return rejected.reply()

    # -- faults --------------------------------------------------------------------------------------------------------

    def _with_faults(
        self, exchange: Exchange, reading: Reading, request: SendRequest | None, rejected: Rejected | None
    ) -> Reply | None:
        parts = (reading.values[0] or b"").decode("latin-1").split("/")
        target = request.message.target if request is not None else ""
        subject = Subject("fcm", token=target, project=parts[3] if len(parts) > 3 else "")
        rule = self._faults.find(subject, exchange.connection)
        if rule is not None and rule.scripted:
            if rule.expire_tokens:
                self._faults.token_generation += 1
            reply = _scripted(rule)
            status, reason = (0, rule.silent) if rule.silent else (reply.status, rule.reason)
            self._tally.count("fcm", None, status, reason)
        elif rejected is not None:
            reply = self._refuse(rejected)
        elif request is not None and (rule is None or not rule.silent):
            reply = self._success(exchange, reading, request)
        else:
            assert rule is not None
            assert request is not None
            id = self._new_id()
            reply = self._named(id)
            self._tally.count("fcm", None, 0, rule.silent)
            if not request.validate_only and self._faults.takes(rule, exchange):
                self._accept(exchange, reading, request, id)
        return self._faults.delayed(exchange, reply) if rule is None else self._faults.act(rule, exchange, reply)


def _scripted(rule: Rule) -> Reply:
    if rule.html_404:
        return html_404()
    if rule.status in (None, 200):
        return unauthenticated(missing=False).reply()
    assert rule.status is not None
    message = rule.message or f"Scripted: {rule.reason or rule.status}"
    violations = [Violation(rule.field, message)] if rule.field else []
    return error(rule.status, message, code=rule.reason, violations=violations)
