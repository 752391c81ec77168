"""Scripted faults: what to answer instead, to whom, how often. With none set, a request pays for one `if`."""

from __future__ import annotations

import asyncio
import math
import random
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from tocsin.http2.messages import Header
from tocsin.http2.server import Exchange, Reply

Rate = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=3600)]


class Match(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a rule is about; what is not named matches everything."""

    provider: Literal["apns", "fcm", "oauth"] | None = None
    environment: Literal["production", "sandbox"] | None = None
    token: str | None = None
    token_prefix: str | None = None
    topic: str | None = None
    project: str | None = None


class Goaway(Struct, frozen=True, forbid_unknown_fields=True):
    """`immediate`: nothing in flight is answered any more; `graceful`: all of it is; `mid`: the older half is."""

    mode: Literal["immediate", "graceful", "mid"] = "graceful"
    every: Annotated[int, Meta(ge=1)] | None = None
    """Only with every so many requests of a connection."""


class Rule(Struct, forbid_unknown_fields=True, kw_only=True):
    """One fault. Several actions in one rule are all taken; the first rule that matches and acts wins."""

    match: Match = Match()
    rate: Rate = 1.0
    times: Annotated[int, Meta(ge=1)] | None = None
    after: Annotated[int, Meta(ge=0)] = 0

    status: Annotated[int, Meta(ge=100, le=599)] | None = None
    reason: str = ""
    """APNs: `reason` of the body. FCM: the `errorCode`. OAuth: the `error`."""
    timestamp: int | None = None
    """APNs 410: Unix milliseconds."""
    message: str | None = None
    """FCM: the error's message."""
    field: str | None = None
    """FCM: the field of a BadRequest violation, `message.token`."""
    body: str | None = None
    headers: dict[str, str] = {}
    html_404: bool = False
    """FCM: Google's HTML page instead of JSON."""

    no_answer: bool = False
    delay_s: Seconds | None = None
    reset: int | None = None
    """RST_STREAM with this error code (7 is REFUSED_STREAM)."""
    processed: bool = False
    """The push is taken all the same, before the stream is reset, cut, or left without an answer."""
    goaway: Goaway | None = None
    max_concurrent_streams: int | None = None
    cut: Literal["mid_headers", "mid_body", "before_answer"] | None = None
    slow_read_s: Seconds | None = None
    expire_tokens: bool = False
    """Every access token that was issued so far becomes invalid."""


class Latency(Struct, frozen=True, forbid_unknown_fields=True):
    """How long every answer takes: fixed, or lognormal by its mean and 99th percentile."""

    fixed_ms: Seconds | None = None
    mean_ms: float | None = None
    p99_ms: float | None = None

    def draw_s(self, dice: random.Random) -> float:
        if self.mean_ms and self.p99_ms:
            # p99 = exp(mu + 2.326 sigma), mean = exp(mu + sigma^2 / 2): solve for sigma, the smaller root.
            z = 2.326
            gap = math.log(max(self.p99_ms / self.mean_ms, 1.0))
            sigma = z - math.sqrt(max(z * z - 2 * gap, 0.0))
            mu = math.log(self.mean_ms) - sigma * sigma / 2
            return math.exp(dice.gauss(mu, sigma)) / 1000
        return (self.fixed_ms or 0.0) / 1000


class Script(Struct, forbid_unknown_fields=True):
    """All that `PUT /faults` or a TOML file may say."""

    rules: list[Rule] = []
    latency: Latency | None = None
    tls_fail: bool = False
    """New connections fail their TLS handshake."""
    seed: int | None = None


class Later:
    """Answers at a later time, gathered by the millisecond: one timer for many."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[tuple[Exchange, Reply]]] = {}
        self._loop = asyncio.get_running_loop()

    def add(self, delay_s: float, exchange: Exchange, reply: Reply) -> None:
        tick = int((self._loop.time() + delay_s) * 1000) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = []
            self._loop.call_at(tick / 1000, self._answer, tick)
        bucket.append((exchange, reply))

    def _answer(self, tick: int) -> None:
        for exchange, reply in self._buckets.pop(tick):
            exchange.reply(reply)


class Faults:
    """The script in force, and what it does to a request."""

    def __init__(self, script: Script) -> None:
        self.later = Later()
        self.replace(script)

    def replace(self, script: Script) -> None:
        self.script = script
        self._dice = random.Random(script.seed)
        self._seen: list[int] = [0] * len(script.rules)
        self._acted: list[int] = [0] * len(script.rules)
        self.active = bool(script.rules) or script.latency is not None
        self.tokens_expired = 0
        """How often access tokens were declared expired; the OAuth side compares."""

    def find(
        self,
        provider: str,
        *,
        exchange: Exchange,
        environment: str | None = None,
        token: str = "",
        topic: str = "",
        project: str = "",
    ) -> Rule | None:
        """The rule that acts on this request, if any."""
        for index, rule in enumerate(self.script.rules):
            match = rule.match
            if (
                (match.provider is not None and match.provider != provider)
                or (match.environment is not None and match.environment != environment)
                or (match.token is not None and match.token != token)
                or (match.token_prefix is not None and not token.startswith(match.token_prefix))
                or (match.topic is not None and match.topic != topic)
                or (match.project is not None and match.project != project)
            ):
                continue
            self._seen[index] += 1
            if self._seen[index] <= rule.after or (rule.times is not None and self._acted[index] >= rule.times):
                continue
            if rule.rate < 1 and self._dice.random() >= rule.rate:
                continue
            if rule.goaway is not None and rule.goaway.every is not None:
                requests = getattr(exchange.connection, "requests", 0)
                if not requests or requests % rule.goaway.every:
                    continue
            self._acted[index] += 1
            return rule
        return None

    def act(self, rule: Rule, exchange: Exchange, normal: Reply, scripted: Reply | None) -> Reply | None:
        """Do to `exchange` what `rule` says. `normal` is the answer without it, `scripted` the one it asks for."""
        connection = exchange.connection
        reply = scripted or normal
        if rule.max_concurrent_streams is not None:
            connection.set_max_streams(rule.max_concurrent_streams)
        if rule.slow_read_s:
            connection.pause_reading(rule.slow_read_s)
        if rule.expire_tokens:
            self.tokens_expired += 1
        if rule.goaway is not None:
            return self._go_away(rule.goaway, exchange, reply)
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
            self.later.add(rule.delay_s, exchange, reply)
            return None
        return self.delayed(exchange, reply)

    def delayed(self, exchange: Exchange, reply: Reply) -> Reply | None:
        """`reply`, now or after the latency that the script asks for."""
        if self.script.latency is None:
            return reply
        delay_s = self.script.latency.draw_s(self._dice)
        if delay_s <= 0:
            return reply
        self.later.add(delay_s, exchange, reply)
        return None

    def _go_away(self, goaway: Goaway, exchange: Exchange, reply: Reply) -> Reply | None:
        connection, stream_id = exchange.connection, exchange.stream_id
        if goaway.mode == "graceful":
            connection.goaway()
            return self.delayed(exchange, reply)
        # Everything up to the last stream id is answered; this request and what follows it was not processed.
        last = 0 if goaway.mode == "immediate" else max(0, stream_id - 2)
        connection.goaway(last_stream_id=last)
        return None

    def takes(self, rule: Rule) -> bool:
        """Whether the push counts as delivered under this rule: what Apple or Google would have done with it."""
        if rule.status is not None and rule.status != 200:
            return False
        if rule.html_404 or rule.expire_tokens:
            return False
        if rule.goaway is not None:
            return rule.goaway.mode == "graceful"
        if rule.no_answer or rule.reset is not None or rule.cut is not None:
            return rule.processed
        return True


def parse_script(raw: bytes) -> Script:
    """A script from JSON.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: with the path of what is wrong.
    """
    return msgspec.json.decode(raw, type=Script)


def load_script(content: str) -> Script:
    """A script from TOML, with the same names."""
    return msgspec.toml.decode(content, type=Script)


def scripted_headers(rule: Rule) -> list[Header]:
    return [(name.lower().encode(), value.encode()) for name, value in rule.headers.items()]


def describe(script: Script) -> Any:
    return msgspec.to_builtins(script)
