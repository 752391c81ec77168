"""One pause: why a lane, a topic or a device is not sent to, until when, and what a probe's answer says of it."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final

from tocsin.delivery.open_items import Delivery
from tocsin.delivery.retry import delay_s
from tocsin.domain.outcomes import (
    Backoff,
    Delivered,
    Misconfigured,
    Outcome,
    Refused,
    RetryLater,
    Scope,
    TokenDead,
    Withdrawn,
)
from tocsin.domain.routes import PauseStatus

_MOST_COMPLAINING: Final = 100


class Cause(Enum):
    """Why nothing is sent. The first three concern the whole lane, the others one topic or one device of it."""

    PROVIDER = auto()
    """The provider, or the link to it, failed too often: the breaker is open."""
    RATE = auto()
    """A rate that the whole lane shares was exceeded."""
    CREDENTIAL = auto()
    """The credential, the application or the project is misconfigured."""
    TOPIC = auto()
    DEVICE = auto()


MISCONFIGURED_BY: Final = {Scope.LANE: Cause.CREDENTIAL, Scope.TOPIC: Cause.TOPIC, Scope.DEVICE: Cause.DEVICE}


class Pause:
    """Nothing is sent until `until`. Then it is half open: one delivery at a time is sent as its probe, and the answer
    to that ends the pause or renews it, for longer. Times are the event loop's (monotonic seconds)."""

    __slots__ = (
        "by_devices",
        "cause",
        "complaining",
        "last_probe",
        "probe",
        "reason",
        "renewals",
        "since",
        "until",
        "waiting",
    )

    def __init__(self, cause: Cause) -> None:
        self.cause = cause
        self.reason = ""
        self.since: float | None = None
        """When it began first."""
        self.until = 0.0
        self.renewals = 0
        """How often in a row it began: each time it is longer."""
        self.probe: Delivery | None = None
        """What was sent to see whether the cause still stands."""
        self.last_probe: str | None = None
        """The device of the probe before, by its token."""
        self.waiting: deque[Delivery] = deque()
        """Deliveries to this topic or device that came while the probe was out. A lane's own wait in its queues."""
        self.complaining: set[tuple[str, str]] = set()
        """The devices (owner, token) whose answers began a topic's pause: without them its cause is gone."""
        self.by_devices = False
        """A topic that is paused because many devices were said not to belong to it."""

    def begin(self, now: float, reason: str, backoff: Backoff, *, least_s: float = 0.0, share: float = 1.0) -> float:
        """Pause for as long as `backoff` says at this renewal, times `share`, but for `least_s` at least; returns how
        long (seconds)."""
        for_s = max(least_s, delay_s(backoff, self.renewals, 0.0) * share)
        self.reason, self.until = reason, now + for_s
        self.since = now if self.since is None else self.since
        self.renewals += 1
        self.probe = None
        return for_s

    def status(self, now: float, topic: str = "") -> PauseStatus:
        for_s = 0.0 if self.since is None else now - self.since
        next_in_s = max(0.0, self.until - now)
        return PauseStatus(self.cause.name.lower(), self.reason, for_s, next_in_s, self.probe is not None, topic)

    def is_due(self, now: float) -> bool:
        """Whether the next delivery would be its probe."""
        return self.probe is None and self.until <= now

    def release_probe(self, next_at: float) -> None:
        """The probe's answer did not speak of the cause, or it was not sent: another may be, from `next_at` on."""
        self.probe = None
        self.until = max(self.until, next_at)

    def complained_by(self, delivery: Delivery) -> None:
        """The answer to this delivery complained of the topic."""
        if len(self.complaining) < _MOST_COMPLAINING:
            self.complaining.add((delivery.device.owner, delivery.device.token))


def subject(outcome: Outcome) -> Cause | None:
    """What an answer complains of; None where it is about the delivery alone."""
    match outcome:
        case RetryLater(failure=True):
            return Cause.PROVIDER
        case RetryLater(scope=Scope.LANE):
            return Cause.RATE
        case Misconfigured(scope=scope):
            return MISCONFIGURED_BY[scope]
        case _:
            return None


def renews(pause: Pause, outcome: Outcome) -> bool:
    """Whether the answer to its probe says that the cause still stands."""
    about = subject(outcome)
    return about is pause.cause or (pause.by_devices and about is Cause.DEVICE)


def ends(pause: Pause, outcome: Outcome) -> bool:
    """Whether the answer to its probe, which does not renew it, says that the cause is gone."""
    if outcome.answer.status == 0 or isinstance(outcome, Withdrawn):
        return False
    about = subject(outcome)
    match pause.cause:
        case Cause.PROVIDER:
            return True
        case Cause.RATE:
            return about is not Cause.PROVIDER
        case Cause.CREDENTIAL:
            # Providers look at the credential first: what they say of token or topic, they say after they took it.
            return (
                isinstance(outcome, Delivered | TokenDead | Refused)
                or about in (Cause.TOPIC, Cause.DEVICE)
                or (isinstance(outcome, RetryLater) and outcome.next_route is not None)
            )
        case Cause.TOPIC:
            return isinstance(outcome, Delivered) or about is Cause.DEVICE
        case Cause.DEVICE:
            return isinstance(outcome, Delivered | TokenDead)
