"""The request handler of Google's FCM HTTP v1 API.

Source: Google, "REST Resource: projects.messages". The wording of the errors is that of the service's answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Final

from tocsin.emulator.counters import Counters
from tocsin.emulator.fault_injection import FaultInjector, RequestAttributes
from tocsin.emulator.faults import Rule
from tocsin.emulator.fcm_errors import (
    FcmRefusal,
    error_reply,
    html_404,
    not_found,
    permission_denied,
    unauthenticated,
)
from tocsin.emulator.fcm_message import SendRequest, read_request
from tocsin.emulator.fcm_schema import Violation
from tocsin.emulator.header_cache import HeaderCache, ParsedHeaders
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.oauth import OAuthHandler
from tocsin.emulator.options import Clock
from tocsin.http2.server import Exchange, Reply

_PATH: Final = re.compile(rb"/v1/projects/([^/]+)/messages:send")
_JSON: Final = ((b"content-type", b"application/json; charset=UTF-8"),)

_Headers = ParsedHeaders[None]


class FcmHandler:
    """Answers the requests to send a message for some projects."""

    def __init__(
        self,
        projects: Sequence[str],
        oauth: OAuthHandler,
        inbox: Inbox,
        counters: Counters,
        faults: FaultInjector,
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        self._projects = {f"/v1/projects/{project}/messages:send".encode(): project for project in projects}
        self._oauth = oauth
        self._inbox = inbox
        self._counters = counters
        self._faults = faults
        self._clock = clock
        self._headers: HeaderCache[None] = HeaderCache(b":path", b"content-length")
        self._last_message_number = random.randrange(10**6)

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Answer one request; None if a fault delays or suppresses the answer."""
        headers = self._headers.parse(exchange)
        try:
            self._check_sender(headers)
            request = read_request(exchange.body)
        except FcmRefusal as refusal:
            if self._faults.active:
                return self._answer_with_faults(exchange, headers, None, refusal)
            return self._refuse(refusal)
        if self._faults.active:
            return self._answer_with_faults(exchange, headers, request, None)
        return self._success(exchange, headers, request)

    def _check_sender(self, headers: _Headers) -> None:
        """Check path, method, access token and project."""
        fields = headers.shared.fields
        path = headers.values[0] or b""
        project = self._projects.get(path) or _project_in(path)
        if fields.get(b":method") != b"POST":
            raise not_found()
        authorization = fields.get(b"authorization", b"")
        allowed = self._oauth.project_of(authorization)
        if allowed is None:
            raise unauthenticated(missing=not authorization)
        if project != allowed:
            raise permission_denied(project)

    def _success(self, exchange: Exchange, headers: _Headers, request: SendRequest) -> Reply:
        self._counters.answers["fcm", None, 200, ""] += 1
        if request.validate_only:
            return _message_name(headers, b"fake_message_id")
        id = self._new_id()
        self._accept(exchange, headers, request, id)
        return _message_name(headers, id)

    def _accept(self, exchange: Exchange, headers: _Headers, request: SendRequest, id: bytes) -> None:
        self._inbox.add("fcm", None, request.message.target.encode(), id, headers, exchange.body)

    def _new_id(self) -> bytes:
        self._last_message_number += 1
        return b"0:%d%%%016x" % (int(self._clock() * 1e6), self._last_message_number)

    def _refuse(self, refusal: FcmRefusal) -> Reply:
        self._counters.count_answer("fcm", None, refusal.status, refusal.reason)
        return refusal.reply()

    # -- faults --------------------------------------------------------------------------------------------------------

    def _answer_with_faults(
        self, exchange: Exchange, headers: _Headers, request: SendRequest | None, refusal: FcmRefusal | None
    ) -> Reply | None:
        rule = self._faults.select(_attributes(headers, request), exchange.connection)
        if rule is not None and rule.replaces_answer:
            if rule.expire_tokens:
                self._faults.token_generation += 1
            reply = _scripted_reply(rule)
            cause = rule.unanswered_because
            status, reason = (0, cause) if cause else (reply.status, rule.reason)
            self._counters.count_answer("fcm", None, status, reason)
        elif refusal is not None:
            reply = self._refuse(refusal)
        elif request is not None and (rule is None or not rule.unanswered_because):
            reply = self._success(exchange, headers, request)
        else:
            assert rule is not None
            assert request is not None
            id = self._new_id()
            reply = _message_name(headers, id)
            self._counters.count_answer("fcm", None, 0, rule.unanswered_because)
            if not request.validate_only and self._faults.accepts_push(rule, exchange):
                self._accept(exchange, headers, request, id)
        if rule is None:
            return self._faults.with_latency(exchange, reply)
        return self._faults.apply(rule, exchange, reply)


def _project_in(path: bytes) -> str:
    """Raises FcmRefusal: nothing is there."""
    match = _PATH.fullmatch(path.partition(b"?")[0])
    if match is None:
        raise not_found()
    return match[1].decode("latin-1")


def _message_name(headers: _Headers, id: bytes) -> Reply:
    return Reply(200, _JSON, b'{"name":"projects/%b/messages/%b"}' % ((headers.values[0] or b"").split(b"/")[3], id))


def _attributes(headers: _Headers, request: SendRequest | None) -> RequestAttributes:
    parts = (headers.values[0] or b"").decode("latin-1").split("/")
    target = request.message.target if request is not None else ""
    return RequestAttributes("fcm", token=target, project=parts[3] if len(parts) > 3 else "")


def _scripted_reply(rule: Rule) -> Reply:
    """The answer that a rule defines instead of the real one."""
    if rule.html_404:
        return html_404()
    if rule.status in (None, 200):
        return unauthenticated(missing=False).reply()
    assert rule.status is not None
    message = rule.message or f"Scripted: {rule.reason or rule.status}"
    violations = [Violation(rule.field, message)] if rule.field else []
    return error_reply(rule.status, message, code=rule.reason, violations=violations)
