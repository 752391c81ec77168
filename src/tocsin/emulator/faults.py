"""The types of a fault script, as `PUT /faults` takes it in JSON and `--faults` in TOML."""

from __future__ import annotations

import math
import re
from random import Random
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
    """The requests that a rule applies to.

    A field that is not set matches every request. Requests to the OAuth token endpoint match only if `provider` is
    `oauth`.
    """

    provider: Literal["apns", "fcm", "oauth"] | None = None
    environment: Literal["production", "sandbox"] | None = None
    token: str | None = None
    token_prefix: str | None = None
    topic: str | None = None
    application: str | None = None
    """APNs: team id, dot, bundle id. Matches the bundle id as topic, and with each of Apple's suffixes."""
    project: str | None = None


class Goaway(Struct, frozen=True, forbid_unknown_fields=True):
    """How the server ends a connection with GOAWAY (RFC 9113, 6.8).

    `graceful`: a notice with the highest stream id, then GOAWAY; all requests are answered. `mid`: the last stream id
    is that of the request before this one; earlier requests are answered, this one and later ones are not processed.
    `immediate`: like `mid`, but the connection closes at once, so that earlier requests may get no answer.
    """

    mode: Literal["immediate", "graceful", "mid"] = "graceful"
    every: Annotated[int, Meta(ge=1)] | None = None
    """If set: only with every n-th request of a connection."""


class Rule(Struct, forbid_unknown_fields=True, kw_only=True):
    """One rule of a fault script: which requests it applies to, how often, and what it does.

    The first rule that matches a request and is due (`after`, `times`, `rate`) is applied. All actions of that rule are
    taken. A rule without an action excludes the requests it matches from the rules after it.

    Raises:
        ValueError: a header field is not valid, or an action exists for FCM only and `match` names another provider.
    """

    match: Match = Match()
    rate: Rate = 1.0
    """The probability with which a matching request is affected."""
    times: Annotated[int, Meta(ge=1)] | None = None
    """The maximum number of requests to apply to."""
    after: Annotated[int, Meta(ge=0)] = 0
    """The number of matching requests that are not affected first."""

    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    """The HTTP status of the answer. The push is not accepted, unless this is 200."""
    reason: str = ""
    """APNs: `reason` in the body. FCM: the `errorCode`. OAuth: the `error`."""
    timestamp: int | None = None
    """APNs, status 410: since when the device token is not valid any more, in Unix milliseconds."""
    message: str | None = None
    """FCM: the error's `message`. OAuth: its `error_description`."""
    field: str | None = None
    """FCM: the field that a BadRequest violation names, for example `message.token`."""
    body: str | None = None
    """Replaces the body of the answer; without `status`, of the answer that the provider would give."""
    headers: dict[str, str] = {}
    """Added to the answer, or replace header fields of the same name; without `status`, as for `body`."""
    html_404: bool = False
    """FCM only: answer with Google's HTML page for status 404."""

    no_answer: bool = False
    """Never answer."""
    delay_s: Seconds | None = None
    """Answer after this many seconds."""
    reset: Annotated[int, Meta(ge=0, le=2**32 - 1)] | None = None
    """Send RST_STREAM with this error code (RFC 9113, 7; 7 is REFUSED_STREAM)."""
    processed: bool = False
    """Accept the push although the request gets no answer (`no_answer`, `reset`, `cut`)."""
    goaway: Goaway | None = None
    max_concurrent_streams: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """Send this SETTINGS_MAX_CONCURRENT_STREAMS on the connection of the request."""
    cut: Literal["mid_headers", "mid_body", "before_answer"] | None = None
    """Close the connection before the answer, or in the middle of its header fields or body."""
    slow_read_s: Seconds | None = None
    """Read nothing from the connection for this many seconds."""
    expire_tokens: bool = False
    """FCM only: all access tokens issued so far become invalid."""
    tls_fail: bool = False
    """Applies to connections, not to requests: the TLS handshake fails for `provider` and `environment`."""

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if _FIELD_NAME.fullmatch(name) is None or _FIELD_VALUE.fullmatch(value) is None:
                raise ValueError(f"headers: {name!r}: not a valid name and value of a header field")
        if self.only_fcm and self.match.provider not in (None, "fcm"):
            raise ValueError("`html_404` and `expire_tokens` are possible only for the provider `fcm`")

    @property
    def only_fcm(self) -> bool:
        """Whether the rule has an action that exists for FCM only; it then does not apply to other providers."""
        return self.html_404 or self.expire_tokens

    @property
    def replaces_answer(self) -> bool:
        """Whether the rule alone decides the answer, and the push is not accepted."""
        return self.only_fcm or self.status not in (None, 200)

    @property
    def unanswered_because(self) -> str:
        """The name of the action because of which there is no answer; empty if there is an answer."""
        if self.goaway is not None and self.goaway.mode != "graceful":
            return "goaway"
        if self.no_answer:
            return "no_answer"
        if self.reset is not None:
            return "reset"
        return "cut" if self.cut is not None else ""


class Latency(Struct, frozen=True, forbid_unknown_fields=True):
    """The delay of every answer: fixed, or from a lognormal distribution with this mean and 99th percentile.

    Raises:
        ValueError: neither or both of the two are given, or no lognormal distribution has these values.
    """

    fixed_ms: Milliseconds | None = None
    mean_ms: Milliseconds | None = None
    p99_ms: Milliseconds | None = None

    def __post_init__(self) -> None:
        if (self.fixed_ms is None) == (self.mean_ms is None) or (self.mean_ms is None) != (self.p99_ms is None):
            raise ValueError("latency: must have either `fixed_ms`, or both `mean_ms` and `p99_ms`")
        if self.mean_ms is not None and self.p99_ms is not None:
            largest_p99_ms = self.mean_ms * math.exp(_Z99 * _Z99 / 2)
            if not 0 < self.mean_ms <= self.p99_ms <= largest_p99_ms:
                raise ValueError("latency: `p99_ms` must be from 1 to 14 times `mean_ms`")

    def draw_s(self, random: Random) -> float:
        """A random delay from the distribution, in seconds."""
        if self.mean_ms is None or self.p99_ms is None:
            return (self.fixed_ms or 0.0) / 1000
        # p99 = exp(mu + z sigma) and mean = exp(mu + sigma² / 2), solved for sigma; the smaller solution.
        sigma = _Z99 - math.sqrt(max(_Z99 * _Z99 - 2 * math.log(self.p99_ms / self.mean_ms), 0.0))
        return math.exp(random.gauss(math.log(self.mean_ms) - sigma * sigma / 2, sigma)) / 1000


class Script(Struct, forbid_unknown_fields=True):
    """A fault script: the rules in their order, and what applies to all requests or connections."""

    rules: list[Rule] = []
    latency: Latency | None = None
    tls_fail: bool = False
    """The TLS handshake of every new connection fails."""
    seed: int | None = None
    """The seed of the random numbers for `rate` and `latency`; the same seed gives the same decisions."""


def parse_script(raw: bytes) -> Script:
    """A script from JSON.

    Raises:
        msgspec.ValidationError: a name or value is not valid; the message has its path.
        msgspec.DecodeError: not JSON.
        UnicodeDecodeError: not UTF-8.
    """
    return msgspec.json.decode(raw, type=Script)


def load_script(content: str) -> Script:
    """A script from TOML, with the same names as in JSON.

    Raises:
        msgspec.ValidationError: a name or value is not valid; the message has its path.
        msgspec.DecodeError: not TOML.
    """
    return msgspec.toml.decode(content, type=Script)


def describe(script: Script) -> Any:
    """The script as built-in types for JSON; fields of rules that have their default are left out."""
    plain = msgspec.to_builtins(script)
    defaults = msgspec.to_builtins(Rule())
    for rule in plain["rules"]:
        rule["match"] = {name: value for name, value in rule["match"].items() if value is not None}
    plain["rules"] = [
        {name: value for name, value in rule.items() if value not in (defaults[name], {})} for rule in plain["rules"]
    ]
    return plain
