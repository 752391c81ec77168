"""The fault script in force, and what it does to a request. With none set, a request pays for one `if`."""

from __future__ import annotations

import random
from typing import Any

from msgspec import Struct

from tocsin.emulator.apns_kinds import belongs
from tocsin.emulator.faults import Goaway, Match, Rule, Script
from tocsin.emulator.later import Later
from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Reply


class Subject(Struct, frozen=True):
    """What a rule's `match` looks at; empty or None where the provider has no such thing."""

    provider: str
    environment: str | None = None
    token: str = ""
    application: str = ""
    """Team id, dot, topic."""
    project: str = ""


class Faults:
    """The script in force. `active` is False where no request needs to look any further."""

    def __init__(self, script: Script) -> None:
        self._later = Later()
        self.token_generation = 0
        """Rises when a fault declares all access tokens expired; a token of an older generation is one of them."""
        self.replace(script)

    def replace(self, script: Script) -> None:
        """Another script, from the start: counts and dice begin anew."""
        self.script = script
        self._dice = random.Random(script.seed)
        self._seen = [0] * len(script.rules)
        self._acted = [0] * len(script.rules)
        self.active = any(not rule.tls_fail for rule in script.rules) or script.latency is not None

    def counts(self) -> list[int]:
        """How often each rule has acted."""
        return list(self._acted)

    def find(self, subject: Subject, connection: Any) -> Rule | None:
        """The rule that acts on this request, if any."""
        for index, rule in enumerate(self.script.rules):
            if rule.tls_fail or not _matches(rule.match, subject) or (rule.only_fcm and subject.provider != "fcm"):
                continue
            if rule.goaway is not None and rule.goaway.every is not None and connection.requests % rule.goaway.every:
                continue
            if self._turn_of(index, rule):
                return rule
        return None

    def refuses_handshake(self, provider: str, environment: str | None) -> bool:
        """Whether a connection that is being opened is to fail."""
        if self.script.tls_fail:
            return True
        subject = Subject(provider, environment)
        return any(
            rule.tls_fail and _matches(rule.match, subject) and self._turn_of(index, rule)
            for index, rule in enumerate(self.script.rules)
        )

    def takes(self, rule: Rule, exchange: Exchange) -> bool:
        """Whether a valid push counts as accepted under this rule: what Apple or Google would have done with it."""
        if rule.scripted:
            return False
        if rule.goaway is not None and rule.goaway.mode != "graceful":
            return _too_late_to_refuse(exchange)
        return rule.processed or not rule.silent

    def act(self, rule: Rule, exchange: Exchange, reply: Reply) -> Reply | None:
        """Do to a request what `rule` says; returns what is left to be answered at once."""
        connection = exchange.connection
        if rule.headers or rule.body is not None:
            reply = _changed(reply, rule)
        if rule.max_concurrent_streams is not None:
            connection.set_max_streams(rule.max_concurrent_streams)
        if rule.slow_read_s:
            connection.pause_reading(rule.slow_read_s)
        if rule.goaway is not None and not self._go_away(rule.goaway, exchange):
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
            self._later.add(rule.delay_s, exchange, reply)
            return None
        return self.delayed(exchange, reply)

    def delayed(self, exchange: Exchange, reply: Reply) -> Reply | None:
        """`reply`, now or after the latency that the script asks for."""
        if self.script.latency is None:
            return reply
        delay_s = self.script.latency.draw_s(self._dice)
        if delay_s <= 0:
            return reply
        self._later.add(delay_s, exchange, reply)
        return None

    def _turn_of(self, index: int, rule: Rule) -> bool:
        self._seen[index] += 1
        if self._seen[index] <= rule.after or (rule.times is not None and self._acted[index] >= rule.times):
            return False
        if rule.rate < 1 and self._dice.random() >= rule.rate:
            return False
        self._acted[index] += 1
        return True

    def _go_away(self, goaway: Goaway, exchange: Exchange) -> bool:
        """Say it; returns whether this request is still to be answered."""
        connection = exchange.connection
        if goaway.mode == "graceful":
            connection.goaway_gracefully()
            return True
        # What was handled must stay below the last stream id: RFC 9113 lets the client send the others again.
        answered = _too_late_to_refuse(exchange)
        connection.goaway(last_stream_id=connection.newest_handled)
        if goaway.mode == "immediate":
            connection.close()
            return False
        return answered


def _too_late_to_refuse(exchange: Exchange) -> bool:
    """A request whose body took so long that a later stream was handled before it."""
    return bool(exchange.stream_id < exchange.connection.newest_handled)


def _matches(match: Match, subject: Subject) -> bool:
    # The token endpoint is meant only where it is named: "everything is 503" should not keep a sender from signing in.
    if match.provider != subject.provider and (match.provider is not None or subject.provider == "oauth"):
        return False
    return not (
        (match.environment is not None and match.environment != subject.environment)
        or (match.token is not None and match.token != subject.token)
        or (match.token_prefix is not None and not subject.token.startswith(match.token_prefix))
        or (match.topic is not None and match.topic != subject.application.partition(".")[2])
        or (match.application is not None and not belongs(subject.application, match.application))
        or (match.project is not None and match.project != subject.project)
    )


def _changed(reply: Reply, rule: Rule) -> Reply:
    own: list[Header] = [(name.lower().encode(), value.encode()) for name, value in rule.headers.items()]
    names = {name for name, _ in own}
    kept = [header for header in reply.headers if header[0] not in names]
    return Reply(reply.status, kept + own, reply.body if rule.body is None else rule.body.encode())
