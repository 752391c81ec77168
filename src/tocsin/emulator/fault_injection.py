"""Selects the rule of the fault script that applies to a request, and applies it.

While no script is set, a request costs one check of `FaultInjector.active`.
"""

from __future__ import annotations

from random import Random
from typing import Any

from msgspec import Struct

from tocsin.emulator.apns_push_rules import is_topic_of
from tocsin.emulator.delayed_replies import DelayedReplies
from tocsin.emulator.faults import Goaway, Match, Rule, Script
from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Reply


class RequestAttributes(Struct, frozen=True):
    """The attributes of a request that `Match` compares; empty or None if the provider has no such attribute."""

    provider: str
    environment: str | None = None
    token: str = ""
    application: str = ""
    """Team id, dot, topic."""
    project: str = ""


class FaultInjector:
    """The current fault script, and the number of times each of its rules has been applied."""

    def __init__(self, script: Script, random: Random) -> None:
        self._delayed = DelayedReplies()
        self._seed_source = random
        self.token_generation = 0
        """Incremented when a rule expires all access tokens; a token of an earlier generation is expired."""
        self.replace(script)

    def replace(self, script: Script) -> None:
        """Use another script from now on. All counts start at zero, and random numbers start with the script's seed."""
        self.script = script
        self._random = Random(self._seed_source.getrandbits(64) if script.seed is None else script.seed)
        self._matched = [0] * len(script.rules)
        self._applied = [0] * len(script.rules)
        self.active = any(not rule.tls_fail for rule in script.rules) or script.latency is not None
        """Whether the script can affect requests; if not, handlers need not call `select`."""

    def counts(self) -> list[int]:
        """How often each rule has been applied, in the order of the rules."""
        return list(self._applied)

    def select(self, request: RequestAttributes, connection: Any) -> Rule | None:
        """The rule to apply to this request, or None; the rule is counted as applied."""
        for index, rule in enumerate(self.script.rules):
            if rule.tls_fail or not _matches(rule.match, request) or (rule.only_fcm and request.provider != "fcm"):
                continue
            if rule.goaway is not None and rule.goaway.every is not None and connection.requests % rule.goaway.every:
                continue
            if self._is_due(index, rule):
                return rule
        return None

    def fails_handshake(self, provider: str, environment: str | None) -> bool:
        """Whether the TLS handshake of a new connection must fail; the rule that says so is counted as applied."""
        if self.script.tls_fail:
            return True
        request = RequestAttributes(provider, environment)
        return any(
            rule.tls_fail and _matches(rule.match, request) and self._is_due(index, rule)
            for index, rule in enumerate(self.script.rules)
        )

    def accepts_push(self, rule: Rule, exchange: Exchange) -> bool:
        """Whether a valid push is accepted although `rule` applies: whether Apple or Google would have delivered it."""
        if rule.replaces_answer:
            return False
        if rule.goaway is not None and rule.goaway.mode != "graceful":
            return _must_be_answered(exchange)
        return rule.processed or not rule.unanswered_because

    def apply(self, rule: Rule, exchange: Exchange, reply: Reply) -> Reply | None:
        """Apply `rule` to a request whose answer would be `reply`.

        Returns the reply to send now; None if it is sent later, or never.
        """
        connection = exchange.connection
        if rule.headers or rule.body is not None:
            reply = _modified(reply, rule)
        if rule.max_concurrent_streams is not None:
            connection.set_max_streams(rule.max_concurrent_streams)
        if rule.slow_read_s:
            connection.pause_reading(rule.slow_read_s)
        if rule.goaway is not None and not self._send_goaway(rule.goaway, exchange):
            return None
        if rule.no_answer:
            return None
        if rule.reset is not None:
            connection.reset(exchange, rule.reset)
            return None
        if rule.cut == "before_answer":
            connection.abort()
            return None
        if rule.cut is not None:
            connection.cut(exchange, reply, keep_headers=rule.cut == "mid_body")
            return None
        if rule.delay_s:
            self._delayed.add(rule.delay_s, exchange, reply)
            return None
        return self.with_latency(exchange, reply)

    def with_latency(self, exchange: Exchange, reply: Reply) -> Reply | None:
        """Apply the script's latency: returns `reply` if it is sent now, None if it is sent later."""
        if self.script.latency is None:
            return reply
        delay_s = self.script.latency.draw_s(self._random)
        if delay_s <= 0:
            return reply
        self._delayed.add(delay_s, exchange, reply)
        return None

    def _is_due(self, index: int, rule: Rule) -> bool:
        """Count one match of a rule, and decide by its `after`, `times` and `rate` whether it is applied."""
        self._matched[index] += 1
        if self._matched[index] <= rule.after or (rule.times is not None and self._applied[index] >= rule.times):
            return False
        if rule.rate < 1 and self._random.random() >= rule.rate:
            return False
        self._applied[index] += 1
        return True

    def _send_goaway(self, goaway: Goaway, exchange: Exchange) -> bool:
        """Send GOAWAY; returns whether this request is still to be answered."""
        connection = exchange.connection
        if goaway.mode == "graceful":
            connection.goaway_gracefully()
            return True
        # The last stream id must cover every request that was handled: RFC 9113, 6.8 lets the client send the requests
        # above it again.
        answered = _must_be_answered(exchange)
        connection.goaway(last_stream_id=connection.newest_handled)
        if goaway.mode == "immediate":
            connection.close()
            return False
        return answered


def _must_be_answered(exchange: Exchange) -> bool:
    """Whether a request with a higher stream id was handled already, so that GOAWAY cannot exclude this one.

    This happens when the body of this request took longer to arrive.
    """
    return bool(exchange.stream_id < exchange.connection.newest_handled)


def _matches(match: Match, request: RequestAttributes) -> bool:
    # A rule applies to the token endpoint only if it names `oauth`: "every answer is 503" should not also prevent a
    # sender from getting an access token.
    if match.provider != request.provider and (match.provider is not None or request.provider == "oauth"):
        return False
    return not (
        (match.environment is not None and match.environment != request.environment)
        or (match.token is not None and match.token != request.token)
        or (match.token_prefix is not None and not request.token.startswith(match.token_prefix))
        or (match.topic is not None and match.topic != request.application.partition(".")[2])
        or (match.application is not None and not is_topic_of(request.application, match.application))
        or (match.project is not None and match.project != request.project)
    )


def _modified(reply: Reply, rule: Rule) -> Reply:
    """The reply with the rule's header fields and body in place of those of the provider."""
    own: list[Header] = [(name.lower().encode(), value.encode()) for name, value in rule.headers.items()]
    names = {name for name, _ in own}
    kept = [header for header in reply.headers if header[0] not in names]
    return Reply(reply.status, kept + own, reply.body if rule.body is None else rule.body.encode())
