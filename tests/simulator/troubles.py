"""What goes wrong in the world, for whom, and for how long: rows of the providers' tables as fault rules, and failures
of network, disk and clock.

A trouble affects the phones of its scope, and nobody else may feel it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tests.simulator.model import Refusal
from tests.simulator.phones import APPLICATIONS, OTHER_PROJECT, PROJECT, SUFFIXES, Phone
from tests.simulator.rows import ROWS, TOKEN_FIELD, Row, Scope
from tocsin.emulator.faults import Match, Rule


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
    answer: Rule | None = None
    """What is answered by it, where that is no rule of the fault script (`quotas.py`)."""
    recovery_s: float = 0.0
    refuses: bool = False
    fails: bool = False
    floods: Flooded | None = None
    """Of what so much is handed in that it waits; the others must not."""
    kills: bool = False
    """The provider calls tokens dead that live."""
    begun_s: float = 0.0
    """When it began (loop time)."""
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

    def has_said(self, answer: Refusal) -> bool:
        """Whether this answer, to a phone that it affects, may be by it."""
        rule = self.rule
        if rule is None or (rule.status, rule.reason) != (answer.status, answer.reason):
            return False
        return self.begun_s <= answer.answered_s and (self.ended_s is None or self.ended_s >= answer.sent_s)

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
    fields = row.fields | ({"reason": random.choice((row.fields["reason"], *row.instead))} if row.instead else {})
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
        rule=Rule(match=matches[0], rate=rate, **fields),
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
        status, reason = phone.death
        since_ms = phone.dead_since_ms if status == 410 else None
        field = TOKEN_FIELD if reason == "INVALID_ARGUMENT" else None
        return [*mismatch, Rule(match=match, status=status, reason=reason, timestamp=since_ms, field=field)]
    if phone.provider == "apns" and phone.really_sandbox != phone.sandbox:
        environment = "sandbox" if phone.sandbox else "production"
        wrong = Match(provider="apns", token=phone.token, environment=environment)  # type: ignore[arg-type]
        return [Rule(match=wrong, status=400, reason="BadDeviceToken")]
    return mismatch


TOPICS: Final = tuple(application.partition(".")[2] + suffix for application in APPLICATIONS for suffix in SUFFIXES)
