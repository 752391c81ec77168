"""The words of a fault script: what `PUT /faults` and a TOML file may say."""

from __future__ import annotations

import math
import random
import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

Rate = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=3600)]
Milliseconds = Annotated[float, Meta(ge=0, le=3_600_000)]

_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE: Final = re.compile(r"([^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?")
_Z99: Final = 2.326
"""The 99th percentile of the standard normal distribution."""


class Match(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a rule is about; what is not named matches everything, but `oauth` only matches where it is named."""

    provider: Literal["apns", "fcm", "oauth"] | None = None
    environment: Literal["production", "sandbox"] | None = None
    token: str | None = None
    token_prefix: str | None = None
    topic: str | None = None
    application: str | None = None
    """APNs: team id, dot, bundle id; it has the bundle id's topic and those with one of Apple's suffixes."""
    project: str | None = None


class Goaway(Struct, frozen=True, forbid_unknown_fields=True):
    """When, and how, a connection is told to go.

    `graceful`: a notice, then GOAWAY; all that was sent is answered. `mid`: the last stream id is that of the request
    before this one; what came before is answered, what comes after is not processed. `immediate`: likewise, but the
    connection closes at once, on what is not answered yet, too.
    """

    mode: Literal["immediate", "graceful", "mid"] = "graceful"
    every: Annotated[int, Meta(ge=1)] | None = None
    """Only with every so many requests of a connection."""


class Rule(Struct, forbid_unknown_fields=True, kw_only=True):
    """One fault. The first rule that matches, and whose turn it is, acts; several actions in one rule are all taken.

    One without an action spares what it matches from the rules below it.
    """

    match: Match = Match()
    rate: Rate = 1.0
    times: Annotated[int, Meta(ge=1)] | None = None
    after: Annotated[int, Meta(ge=0)] = 0

    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    reason: str = ""
    """APNs: `reason` of the body. FCM: the `errorCode`. OAuth: the `error`."""
    timestamp: int | None = None
    """APNs 410: Unix milliseconds."""
    message: str | None = None
    """FCM: the error's message. OAuth: its description."""
    field: str | None = None
    """FCM: the field of a BadRequest violation, `message.token`."""
    body: str | None = None
    """Instead of the provider's own; with no `status`, of the one that it would have been."""
    headers: dict[str, str] = {}
    """Added to the answer, each replacing one of its name; with no `status`, to the one that it would have been."""
    html_404: bool = False
    """FCM alone: Google's HTML page instead of JSON."""

    no_answer: bool = False
    delay_s: Seconds | None = None
    reset: Annotated[int, Meta(ge=0, le=2**32 - 1)] | None = None
    """RST_STREAM with this error code (7 is REFUSED_STREAM)."""
    processed: bool = False
    """The push is taken all the same, before the stream is reset, cut, or left without an answer."""
    goaway: Goaway | None = None
    max_concurrent_streams: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    cut: Literal["mid_headers", "mid_body", "before_answer"] | None = None
    slow_read_s: Seconds | None = None
    expire_tokens: bool = False
    """FCM alone: every access token that was issued so far becomes invalid."""
    tls_fail: bool = False
    """Not about requests: new connections of `provider` and `environment` fail their TLS handshake."""

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if _FIELD_NAME.fullmatch(name) is None or _FIELD_VALUE.fullmatch(value) is None:
                raise ValueError(f"headers: {name!r} is no header field")
        if self.only_fcm and self.match.provider not in (None, "fcm"):
            raise ValueError("`html_404` and `expire_tokens` are for the provider `fcm` alone")

    @property
    def only_fcm(self) -> bool:
        """Whether there is nothing like it elsewhere."""
        return self.html_404 or self.expire_tokens

    @property
    def scripted(self) -> bool:
        """Whether the answer is the rule's, and the push not taken."""
        return self.only_fcm or self.status not in (None, 200)

    @property
    def silent(self) -> str:
        """Why there is no answer; empty where there is one."""
        if self.goaway is not None and self.goaway.mode != "graceful":
            return "goaway"
        if self.no_answer:
            return "no_answer"
        if self.reset is not None:
            return "reset"
        return "cut" if self.cut is not None else ""


class Latency(Struct, frozen=True, forbid_unknown_fields=True):
    """How long every answer takes: fixed, or lognormal by its mean and 99th percentile."""

    fixed_ms: Milliseconds | None = None
    mean_ms: Milliseconds | None = None
    p99_ms: Milliseconds | None = None

    def __post_init__(self) -> None:
        if (self.fixed_ms is None) == (self.mean_ms is None) or (self.mean_ms is None) != (self.p99_ms is None):
            raise ValueError("latency: either `fixed_ms`, or `mean_ms` and `p99_ms`")
        if self.mean_ms is not None and self.p99_ms is not None:
            furthest = self.mean_ms * math.exp(_Z99 * _Z99 / 2)
            if not 0 < self.mean_ms <= self.p99_ms <= furthest:
                raise ValueError("latency: `p99_ms` must be from 1 to 14 times `mean_ms`")

    def draw_s(self, dice: random.Random) -> float:
        if self.mean_ms is None or self.p99_ms is None:
            return (self.fixed_ms or 0.0) / 1000
        # p99 = exp(mu + z sigma), mean = exp(mu + sigma² / 2): solved for sigma, the smaller root.
        sigma = _Z99 - math.sqrt(max(_Z99 * _Z99 - 2 * math.log(self.p99_ms / self.mean_ms), 0.0))
        return math.exp(dice.gauss(math.log(self.mean_ms) - sigma * sigma / 2, sigma)) / 1000


class Script(Struct, forbid_unknown_fields=True):
    """All that `PUT /faults` or a TOML file may say."""

    rules: list[Rule] = []
    latency: Latency | None = None
    tls_fail: bool = False
    """New connections fail their TLS handshake, whomever they are to."""
    seed: int | None = None
    """Makes `rate` and `latency` repeat themselves."""


def parse_script(raw: bytes) -> Script:
    """A script from JSON.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: with the path of what is wrong.
    """
    return msgspec.json.decode(raw, type=Script)


def load_script(content: str) -> Script:
    """A script from TOML, with the same names; raises as `parse_script`."""
    return msgspec.toml.decode(content, type=Script)


def describe(script: Script) -> Any:
    """The script as JSON has it, its rules without what they leave to the defaults."""
    plain = msgspec.to_builtins(script)
    defaults = msgspec.to_builtins(Rule())
    for rule in plain["rules"]:
        rule["match"] = {name: value for name, value in rule["match"].items() if value is not None}
    plain["rules"] = [
        {name: value for name, value in rule.items() if value not in (defaults[name], {})} for rule in plain["rules"]
    ]
    return plain
