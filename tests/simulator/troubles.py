"""What goes wrong in the world, for whom, and for how long: rows of the providers' tables as fault rules, and failures
of network, disk and clock.

A trouble affects the phones of its scope, and nobody else may feel it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum, StrEnum
from random import Random
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from tests.simulator.phones import APPLICATIONS, OTHER_PROJECT, PROJECT, SUFFIXES, Phone
from tocsin.emulator.faults import Goaway, Match, Rule


class Scope(IntEnum):
    """Whom a trouble affects; also the order in which a provider looks: the broader first."""

    EVERYTHING = 0
    PROVIDER = 1
    APPLICATION = 2
    TOPIC = 3
    DEVICE = 4


class Row(Struct, frozen=True, kw_only=True):
    """One row of a provider's table, or one way of not answering."""

    name: str
    provider: str
    scopes: tuple[Scope, ...]
    fields: dict[str, Any]
    recovery_s: float
    """For how long those whom it affected may still feel it after its end."""
    refuses: bool = False
    """A delivery may end as refused by it."""
    fails: bool = False
    """The provider or the link to it has failed, as far as tocsin can tell: it counts towards the lane's breaker."""


_DEVICE: Final = (Scope.DEVICE,)
_TOPIC: Final = (Scope.TOPIC,)
_APPLICATION: Final = (Scope.APPLICATION,)
_PROVIDER: Final = (Scope.PROVIDER,)
_BROAD: Final = (Scope.APPLICATION, Scope.PROVIDER)
_ANY: Final = (Scope.DEVICE, Scope.APPLICATION, Scope.PROVIDER)

_MISCONFIGURED_S: Final = 16 * 60.0
_BREAKER_S: Final = 2 * 60.0
_RATE_S: Final = 16 * 60.0
_LONG_AGO_MS: Final = 1_000_000_000_000


def _apns(
    status: int, reason: str, scopes: tuple[Scope, ...], recovery_s: float, *, refuses: bool = False, **more: Any
) -> Row:
    return _answer("apns", status, reason, scopes, recovery_s, refuses=refuses, **more)


def _fcm(
    status: int, code: str, scopes: tuple[Scope, ...], recovery_s: float, *, refuses: bool = False, **more: Any
) -> Row:
    return _answer("fcm", status, code, scopes, recovery_s, refuses=refuses, **more)


def _answer(
    provider: str,
    status: int,
    reason: str,
    scopes: tuple[Scope, ...],
    recovery_s: float,
    *,
    refuses: bool,
    **more: Any,
) -> Row:
    name = f"{provider} {status} {reason}" + (f" {more['headers']}" if "headers" in more else "")
    fields = {"status": status, "reason": reason, **more}
    return Row(
        name=name,
        provider=provider,
        scopes=scopes,
        fields=fields,
        recovery_s=recovery_s,
        refuses=refuses,
        fails=status >= 500,
    )


def _unanswered(name: str, provider: str, scopes: tuple[Scope, ...], **fields: Any) -> Row:
    return Row(
        name=f"{provider} {name}",
        provider=provider,
        scopes=scopes,
        fields=fields,
        recovery_s=_BREAKER_S,
        fails=True,
    )


def _ways_of_not_answering(provider: str) -> list[Row]:
    return [
        _unanswered("no answer", provider, _ANY, no_answer=True),
        _unanswered("no answer, accepted", provider, _BROAD, no_answer=True, processed=True),
        _unanswered("answers after 3 s", provider, _ANY, delay_s=3.0),
        _unanswered("answers after 40 s", provider, _ANY, delay_s=40.0),
        _unanswered("stream reset", provider, _ANY, reset=2),
        _unanswered("stream reset, accepted", provider, _ANY, reset=2, processed=True),
        _unanswered("stream refused", provider, _ANY, reset=7),
        # These end or slow the connection, which all of a provider's applications share.
        _unanswered("cut in header fields", provider, _PROVIDER, cut="mid_headers"),
        _unanswered("cut in body, accepted", provider, _PROVIDER, cut="mid_body", processed=True),
        _unanswered("cut before the answer", provider, _PROVIDER, cut="before_answer"),
        _unanswered("GOAWAY", provider, _PROVIDER, goaway=Goaway(mode="graceful", every=20)),
        _unanswered("GOAWAY, in the middle", provider, _PROVIDER, goaway=Goaway(mode="mid", every=7)),
        _unanswered("GOAWAY, at once", provider, _PROVIDER, goaway=Goaway(mode="immediate", every=15)),
        _unanswered("GOAWAY to every request", provider, _PROVIDER, goaway=Goaway(mode="mid")),
        _unanswered("one stream at a time", provider, _PROVIDER, max_concurrent_streams=1),
        _unanswered("no stream at all", provider, _PROVIDER, max_concurrent_streams=0),
        _unanswered("reads slowly", provider, _PROVIDER, slow_read_s=5.0),
    ]


_AFTER_0: Final = {"retry-after": "0"}
_AFTER_5: Final = {"retry-after": "5"}
_AFTER_LONG: Final = {"retry-after": "600"}

ROWS: Final[tuple[Row, ...]] = (
    _apns(400, "DeviceTokenNotForTopic", _DEVICE, _MISCONFIGURED_S),
    _apns(429, "TooManyRequests", _DEVICE, _RATE_S),
    _apns(429, "TooManyRequests", _DEVICE, _RATE_S, headers=_AFTER_0),
    _apns(429, "TooManyRequests", _DEVICE, _RATE_S, headers=_AFTER_LONG),
    _apns(410, "Unregistered", _DEVICE, _RATE_S, timestamp=_LONG_AGO_MS),
    _apns(410, "SomethingNew", _DEVICE, _RATE_S),
    _apns(400, "BadCollapseId", _DEVICE, 0.0, refuses=True),
    _apns(400, "SomethingNew", _DEVICE, 0.0, refuses=True),
    _apns(413, "PayloadTooLarge", _DEVICE, 0.0, refuses=True),
    _apns(400, "TopicDisallowed", _TOPIC, _MISCONFIGURED_S),
    _apns(400, "BadTopic", _TOPIC, _MISCONFIGURED_S),
    _apns(403, "InvalidProviderToken", _APPLICATION, _MISCONFIGURED_S),
    _apns(403, "Forbidden", _APPLICATION, _MISCONFIGURED_S),
    _apns(403, "ExpiredProviderToken", _PROVIDER, _MISCONFIGURED_S),
    _apns(429, "TooManyProviderTokenUpdates", _PROVIDER, 21 * 60.0),
    _apns(500, "InternalServerError", _ANY, _BREAKER_S),
    _apns(503, "ServiceUnavailable", _ANY, _BREAKER_S),
    _apns(503, "ServiceUnavailable", _BROAD, _BREAKER_S, headers=_AFTER_0),
    _apns(503, "ServiceUnavailable", _BROAD, 11 * 60.0, headers=_AFTER_LONG),
    _apns(503, "Shutdown", _PROVIDER, _BREAKER_S),
    _apns(400, "IdleTimeout", _PROVIDER, _BREAKER_S),
    *_ways_of_not_answering("apns"),
    _fcm(401, "THIRD_PARTY_AUTH_ERROR", _DEVICE, _MISCONFIGURED_S),
    _fcm(429, "RESOURCE_EXHAUSTED", _DEVICE, _RATE_S, message="The device's message rate is exceeded"),
    _fcm(400, "INVALID_ARGUMENT", _DEVICE, 0.0, refuses=True, field="message.data"),
    _fcm(429, "QUOTA_EXCEEDED", _BROAD, _RATE_S),
    _fcm(429, "QUOTA_EXCEEDED", _BROAD, _RATE_S, headers=_AFTER_5),
    _fcm(500, "INTERNAL", _ANY, _BREAKER_S),
    _fcm(503, "UNAVAILABLE", _ANY, _BREAKER_S),
    _fcm(503, "UNAVAILABLE", _BROAD, _BREAKER_S, headers=_AFTER_5),
    _fcm(502, "", _BROAD, _BREAKER_S),
    _fcm(403, "PERMISSION_DENIED", _BROAD, _MISCONFIGURED_S),
    Row(name="fcm HTML 404", provider="fcm", scopes=_BROAD, fields={"html_404": True}, recovery_s=_MISCONFIGURED_S),
    Row(
        name="fcm expires its access tokens",
        provider="fcm",
        scopes=_PROVIDER,
        fields={"expire_tokens": True},
        recovery_s=_MISCONFIGURED_S,
    ),
    *_ways_of_not_answering("fcm"),
)


class Flooded(StrEnum):
    URGENT = "urgent events"
    BULK = "events that are not urgent"


class Trouble(Struct, eq=False, kw_only=True):
    """Something that is wrong now, or was."""

    name: str
    scope: Scope
    provider: str = ""
    application: str = ""
    topic: str = ""
    phones: frozenset[int] = frozenset()
    """By number, where the scope is the device."""
    rule: Rule | None = None
    recovery_s: float = 0.0
    refuses: bool = False
    fails: bool = False
    floods: Flooded | None = None
    """Of what so much is handed in that it waits; the others must not."""
    kills: bool = False
    """The provider calls tokens dead that live."""
    ended_s: float | None = None
    """When it ended (loop time)."""

    def affects(self, phone: Phone) -> bool:
        match self.scope:
            case Scope.EVERYTHING:
                return True
            case Scope.PROVIDER:
                return phone.provider == self.provider
            case Scope.APPLICATION:
                # What nobody knows the project of goes to the default one first.
                return phone.application == self.application or (
                    self.application == PROJECT and phone.application == OTHER_PROJECT
                )
            case Scope.TOPIC:
                return phone.topic == self.topic
            case Scope.DEVICE:
                return phone.number in self.phones

    def is_over(self, now_s: float) -> bool:
        return self.ended_s is not None and now_s > self.ended_s + self.recovery_s

    @property
    def whom(self) -> str:
        match self.scope:
            case Scope.EVERYTHING:
                return "everything"
            case Scope.PROVIDER:
                return self.provider
            case Scope.APPLICATION:
                return self.application
            case Scope.TOPIC:
                return f"topic {self.topic}"
            case Scope.DEVICE:
                return f"phones {sorted(self.phones)}"


def draw_trouble(
    random: Random, scope: Scope, provider: str, phones: Sequence[Phone], passed_over: Callable[[Row, Scope], bool]
) -> Trouble | None:
    """A trouble of this scope at this provider; None where there is nobody whom it could affect.

    What fails for the device alone fails for one only: where several devices say it, all of a lane may wait.
    """
    rows = [row for row in ROWS if row.provider == provider and scope in row.scopes and not passed_over(row, scope)]
    own = [phone for phone in phones if phone.provider == provider and not phone.dead]
    if not rows or not own:
        return None
    row, victim = random.choice(rows), random.choice(own)
    rate = random.choice((1.0, 1.0, 0.7, 0.3))
    if scope is Scope.DEVICE:
        victims = random.sample(own, min(len(own), 1 if row.fails else random.choice((1, 1, 2, 5))))
        matches = [Match(provider=row.provider, token=phone.token) for phone in victims]  # type: ignore[arg-type]
    else:
        victims = []
        matches = [_match(row, scope, victim)]
    return Trouble(
        name=row.name,
        scope=scope,
        provider=provider,
        application=victim.application if scope is Scope.APPLICATION else "",
        topic=victim.topic if scope is Scope.TOPIC else "",
        phones=frozenset([phone.number for phone in victims]),
        rule=Rule(match=matches[0], rate=rate, **row.fields),
        recovery_s=row.recovery_s,
        refuses=row.refuses,
        fails=row.fails,
    )


def false_deaths(
    random: Random, provider: str, phones: Sequence[Phone], now_ms: int, *, recovery_s: float
) -> Trouble | None:
    """The provider calls living tokens dead: all of Google's, or one application's."""
    own = [phone for phone in phones if phone.provider == provider and not phone.dead]
    if not own:
        return None
    application = random.choice(own).application
    if provider == "fcm":
        match, fields = Match(provider="fcm"), {"status": 404, "reason": "UNREGISTERED"}
    else:
        match = Match(provider="apns", application=application)
        fields = {"status": 410, "reason": "Unregistered", "timestamp": now_ms}
    return Trouble(
        name=f"{provider} calls living tokens dead",
        scope=Scope.PROVIDER if provider == "fcm" else Scope.APPLICATION,
        provider=provider,
        application=application,
        rule=Rule(match=match, rate=random.choice((0.3, 0.5, 1.0)), **fields),  # type: ignore[arg-type]
        recovery_s=recovery_s,
        kills=True,
    )


def _match(row: Row, scope: Scope, victim: Phone) -> Match:
    if scope is Scope.APPLICATION:
        if row.provider == "fcm":
            return Match(provider="fcm", project=victim.application)
        return Match(provider="apns", application=victim.application)
    if scope is Scope.TOPIC:
        return Match(provider="apns", topic=victim.topic)
    return Match(provider=row.provider)  # type: ignore[arg-type]


def rules(troubles: Iterable[Trouble], phones: Sequence[Phone]) -> list[Rule]:
    """The fault script: the broad troubles first, as a provider looks at the credential before the token.

    What it says of a token comes before the ways of not answering: it accepts no push for one that it does not know.
    """
    answers: list[Rule] = []
    silences: list[Rule] = []
    by_number = {phone.number: phone for phone in phones}
    for trouble in sorted(troubles, key=lambda one: one.scope):
        if trouble.rule is None:
            continue
        into = answers if trouble.rule.replaces_answer else silences
        if trouble.scope is Scope.DEVICE:
            for number in sorted(trouble.phones):
                match = Match(provider=by_number[number].provider, token=by_number[number].token)  # type: ignore[arg-type]
                into.append(replace(trouble.rule, match=match))
        else:
            into.append(trouble.rule)
    return [*answers, *(rule for phone in phones for rule in own_rules(phone)), *silences]


def own_rules(phone: Phone) -> list[Rule]:
    """What the provider says of one phone's token for as long as it is so."""
    match = Match(provider=phone.provider, token=phone.token)  # type: ignore[arg-type]
    mismatch = []
    if phone.application == OTHER_PROJECT:
        other = Match(provider="fcm", token=phone.token, project=PROJECT)
        mismatch = [Rule(match=other, status=403, reason="SENDER_ID_MISMATCH")]
    if phone.dead:
        if phone.provider == "fcm":
            return [*mismatch, Rule(match=match, status=404, reason="UNREGISTERED")]
        return [Rule(match=match, status=410, reason="Unregistered", timestamp=phone.dead_since_ms)]
    if phone.provider == "apns" and phone.really_sandbox != phone.sandbox:
        environment = "sandbox" if phone.sandbox else "production"
        wrong = Match(provider="apns", token=phone.token, environment=environment)  # type: ignore[arg-type]
        return [Rule(match=wrong, status=400, reason="BadDeviceToken")]
    return mismatch


TOPICS: Final = tuple(application.partition(".")[2] + suffix for application in APPLICATIONS for suffix in SUFFIXES)
