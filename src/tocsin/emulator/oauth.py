"""The request handler of Google's token endpoint, which exchanges a signed assertion for an access token.

Source: RFC 7523; Google, "Using OAuth 2.0 for Server to Server Applications".
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.emulator.counters import Counters
from tocsin.emulator.fault_injection import FaultInjector, RequestAttributes
from tocsin.emulator.faults import Rule
from tocsin.emulator.oauth_assertion import AssertionVerifier, GrantRefusal, ServiceAccount
from tocsin.emulator.options import Clock
from tocsin.http2.server import Exchange, Reply

PATH: Final = "/token"
_TOKEN_BYTES: Final = 96


class _IssuedToken(Struct, frozen=True):
    """Whose an access token is, when it expires, and which generation of access tokens it is of."""

    project: str
    expires_at: float
    """Unix seconds."""
    generation: int
    """The value of `FaultInjector.token_generation` when the token was issued."""


class OAuthHandler:
    """Issues access tokens, and tells for later requests whether an access token is valid.

    Access tokens come from `random`, so that a run can be repeated. They protect nothing but the emulator.
    """

    def __init__(
        self,
        accounts: Sequence[ServiceAccount],
        counters: Counters,
        faults: FaultInjector,
        lifetime_s: int,
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        self._verifier = AssertionVerifier(accounts, clock)
        self._counters = counters
        self._faults = faults
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._random = random
        self._issued: dict[bytes, _IssuedToken] = {}

    def project_of(self, authorization: bytes) -> str | None:
        """Whose access token is in an `authorization` header field; None where it was not issued here, or has
        expired."""
        issued = self._issued.get(authorization)
        if issued is None:
            if authorization[:7].lower() != b"bearer ":
                return None
            issued = self._issued.get(b"Bearer " + authorization[7:].strip())
            if issued is None:
                return None
        holds = issued.expires_at > self._clock() and issued.generation == self._faults.token_generation
        return issued.project if holds else None

    def __call__(self, exchange: Exchange) -> Reply | None:
        """Answer one token request; None if a fault delays or suppresses the answer."""
        fields = dict(exchange.headers)
        if fields.get(b":path", b"").partition(b"?")[0] != PATH.encode():
            return Reply(404)
        if fields.get(b":method") != b"POST":
            return Reply(405, ((b"allow", b"POST"),))
        rule = None
        if self._faults.active:
            project = self._verifier.asked_by(exchange.body).project_id
            rule = self._faults.select(RequestAttributes("oauth", project=project), exchange.connection)
        if rule is not None and rule.replaces_answer:
            reply, reason = _scripted_reply(rule), rule.reason
        else:
            reply, reason = self._answer(exchange.body)
        cause = rule.unanswered_because if rule is not None else ""
        status, reason = (0, cause) if cause else (reply.status, reason)
        self._counters.count_answer("oauth", None, status, reason)
        if rule is not None:
            return self._faults.apply(rule, exchange, reply)
        return self._faults.with_latency(exchange, reply) if self._faults.active else reply

    def _answer(self, body: bytes) -> tuple[Reply, str]:
        """The answer to a token request, and its `error` (empty if a token is issued)."""
        try:
            account = self._verifier.verify(body)
        except GrantRefusal as refusal:
            return _json(400, {"error": refusal.error, "error_description": str(refusal)}), refusal.error
        token = self._issue(account.project_id)
        return _json(200, {"access_token": token, "expires_in": self._lifetime_s - 1, "token_type": "Bearer"}), ""

    def _issue(self, project: str) -> str:
        now = self._clock()
        self._issued = {token: issued for token, issued in self._issued.items() if issued.expires_at > now}
        token = b"ya29." + base64.urlsafe_b64encode(self._random.randbytes(_TOKEN_BYTES))
        self._issued[b"Bearer " + token] = _IssuedToken(project, now + self._lifetime_s, self._faults.token_generation)
        self._counters.access_tokens_issued += 1
        return token.decode()


def _scripted_reply(rule: Rule) -> Reply:
    """The answer that a rule defines instead of the real one."""
    status = rule.status or 500
    error = {"error": rule.reason or "internal_failure"}
    return _json(status, error | ({"error_description": rule.message} if rule.message else {}))


def _json(status: int, value: dict[str, Any]) -> Reply:
    return Reply(status, ((b"content-type", b"application/json; charset=utf-8"),), msgspec.json.encode(value))
