"""The request handler of APNs; there is one for the production environment and one for the sandbox.

Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from tocsin.emulator.apns_checks import PATH_PREFIX, VARYING_FIELDS, ApnsChecks
from tocsin.emulator.apns_push_rules import PushRules, TokenBinding
from tocsin.emulator.apns_reasons import ApnsRefusal, Reason
from tocsin.emulator.counters import Counters
from tocsin.emulator.fault_injection import FaultInjector, RequestAttributes
from tocsin.emulator.faults import Rule
from tocsin.emulator.header_cache import HeaderCache, ParsedHeaders
from tocsin.emulator.inbox import Inbox
from tocsin.emulator.provider_tokens import ProviderTokenVerifier
from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Reply


class ApnsService(Struct, frozen=True, kw_only=True):
    """What the handlers of both environments share."""

    team_id: str
    provider_tokens: ProviderTokenVerifier
    inbox: Inbox
    counters: Counters
    faults: FaultInjector
    random: Random
    """Generates `apns-id` and `apns-unique-id`."""
    topics: frozenset[str] = frozenset()
    """The only topics that are permitted, each also with Apple's suffixes; empty permits every well-formed topic."""
    max_streams_after_success: int | None = None
    """If connections start with one stream: how many they allow once a request has succeeded."""
    bindings: dict[bytes, TokenBinding]
    """The environment and topic of each device token that was accepted."""
    max_bindings: int = 100_000
    """The maximum size of `bindings`; later device tokens are not added."""


class ApnsHandler:
    """Answers the requests of one environment (`production` or `sandbox`)."""

    def __init__(self, environment: str, service: ApnsService) -> None:
        self._environment = environment
        self._sandbox = environment == "sandbox"
        self._service = service
        self._bindings = service.bindings
        self._faults = service.faults
        self._counters = service.counters
        self._headers: HeaderCache[PushRules] = HeaderCache(*VARYING_FIELDS)
        self._check = ApnsChecks(environment, service.provider_tokens, service.bindings, service.topics).check

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Answer one request; None if a fault delays or suppresses the answer."""
        headers = self._headers.parse(exchange)
        if self._faults.active:
            return self._answer_with_faults(exchange, headers)
        try:
            rules = self._check(exchange, headers)
        except ApnsRefusal as refusal:
            return self._refuse(refusal.reason, headers)
        reply = self._success(headers)
        self._accept(exchange, headers, rules, reply)
        return reply

    def _accept(self, exchange: Exchange, headers: ParsedHeaders[PushRules], rules: PushRules, reply: Reply) -> None:
        path, _, id = headers.values
        assert path is not None
        token = path[len(PATH_PREFIX) :].lower()
        if len(self._bindings) < self._service.max_bindings:
            self._bindings.setdefault(token, rules.binding)
        self._service.inbox.add(
            "apns", self._environment, token, reply.headers[0][1], headers, exchange.body, id_from_sender=id is not None
        )
        if self._service.max_streams_after_success is not None:
            exchange.connection.set_max_streams(self._service.max_streams_after_success)

    def _success(self, headers: ParsedHeaders[PushRules]) -> Reply:
        self._counters.answers["apns", self._environment, 200, ""] += 1
        random = self._service.random
        id = (b"apns-id", headers.values[2] or _new_id(random))
        return Reply(200, (id, (b"apns-unique-id", _new_id(random))) if self._sandbox else (id,))

    def _refuse(self, reason: Reason, headers: ParsedHeaders[PushRules]) -> Reply:
        self._counters.count_answer("apns", self._environment, reason.status, reason.text)
        return Reply(reason.status, self._error_headers(headers), msgspec.json.encode({"reason": reason.text}))

    def _error_headers(self, headers: ParsedHeaders[PushRules]) -> list[Header]:
        id = headers.values[2] or _new_id(self._service.random)
        return [(b"apns-id", id), (b"content-type", b"application/json")]

    # -- faults --------------------------------------------------------------------------------------------------------

    def _answer_with_faults(self, exchange: Exchange, headers: ParsedHeaders[PushRules]) -> Reply | None:
        rule = self._faults.select(self._attributes(headers), exchange.connection)
        if rule is not None and rule.replaces_answer:
            self._service.provider_tokens.see(headers.shared.fields.get(b"authorization"))
            reply = self._scripted_reply(rule, headers)
            cause = rule.unanswered_because
            status, reason = (0, cause) if cause else (reply.status, rule.reason)
            self._counters.count_answer("apns", self._environment, status, reason)
            return self._faults.apply(rule, exchange, reply)
        try:
            rules = self._check(exchange, headers)
        except ApnsRefusal as refusal:
            reply = self._refuse(refusal.reason, headers)
        else:
            if rule is None or not rule.unanswered_because:
                reply = self._success(headers)
            else:
                reply = Reply(200, ((b"apns-id", headers.values[2] or _new_id(self._service.random)),))
                self._counters.count_answer("apns", self._environment, 0, rule.unanswered_because)
            if rule is None or self._faults.accepts_push(rule, exchange):
                self._accept(exchange, headers, rules, reply)
        if rule is None:
            return self._faults.with_latency(exchange, reply)
        return self._faults.apply(rule, exchange, reply)

    def _scripted_reply(self, rule: Rule, headers: ParsedHeaders[PushRules]) -> Reply:
        """The answer that a rule defines instead of the real one."""
        body: dict[str, Any] = {"reason": rule.reason}
        if rule.timestamp is not None:
            body["timestamp"] = rule.timestamp
        return Reply(rule.status or 500, self._error_headers(headers), msgspec.json.encode(body))

    def _attributes(self, headers: ParsedHeaders[PushRules]) -> RequestAttributes:
        token = (headers.values[0] or b"")[len(PATH_PREFIX) :].decode("latin-1").lower()
        topic = headers.shared.fields.get(b"apns-topic", b"").decode("latin-1")
        return RequestAttributes("apns", self._environment, token, f"{self._service.team_id}.{topic}")


def _new_id(random: Random) -> bytes:
    # Not `uuid4`: it reads random bytes from the operating system, which takes two microseconds.
    digits = b"%032X" % random.getrandbits(128)
    return b"-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
