"""What an attempt's answer means: every answer of a provider becomes one Outcome, in one table per provider."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from tocsin.domain.routes import Route


class Scope(StrEnum):
    """Whom an answer is about, and so who waits."""

    DEVICE = "device"
    TOPIC = "topic"
    """The topic of the delivery's route: the part of an account that can be wrong by itself."""
    LANE = "lane"
    """Whatever shares the account's credential in one environment."""


class Backoff(Struct, frozen=True):
    """When to try again: up to `first_s` after the first failure, doubling up to `cap_s`.

    With `jitter` the wait is drawn between `floor_s` and that bound (full jitter); without, it is the bound itself.
    `first_s` 0 means at once the first time, and two seconds doubling after that.
    """

    first_s: float
    cap_s: float
    floor_s: float = 0.0
    jitter: bool = True


class Answer(Struct, frozen=True):
    """What the provider said, for the receipt. `status` 0 stands for no answer at all."""

    status: int
    reason: str


class Delivered(Struct, frozen=True):
    """The provider took the push. `provider_id` is its id for it (apns-id, FCM's message name)."""

    answer: Answer
    provider_id: str = ""


class TokenDead(Struct, frozen=True):
    """The token is gone for good: since `timestamp_ms` (Unix milliseconds, the provider's time), where it says when."""

    answer: Answer
    timestamp_ms: int | None = None


class RetryLater(Struct, frozen=True):
    """Not now. `backoff` decides when, but not before `after_s`, which the provider asked for (Retry-After).

    `scope` LANE: a rate that all deliveries of the lane share was exceeded, and they all wait; so do the lanes of the
    routes in `pause_also`. `failure`: it is the provider's or the link's failure, and counts towards the lane's
    breaker. `shared_failure`: it counts once together with all that failed in the same report (a connection lost under
    a thousand requests is one). `unknown`: the push may have arrived all the same. `next_route`: another route to the
    same device, to be tried at once.
    """

    answer: Answer
    backoff: Backoff
    after_s: float | None = None
    scope: Scope = Scope.DEVICE
    failure: bool = False
    shared_failure: bool = False
    unknown: bool = False
    pause_also: tuple[Route, ...] = ()
    next_route: Route | None = None


class Refused(Struct, frozen=True):
    """This payload or this device is wrong, and trying again will not help. `our_bug` is logged at error,
    with the fields of the request that the provider names."""

    answer: Answer
    our_bug: bool = False
    fields: tuple[str, ...] = ()


class Misconfigured(Struct, frozen=True):
    """A device, topic, credential or project is wrong: the delivery is kept, the operator is told, it is tried again
    slowly. `scope` says what is wrong, and is paused."""

    answer: Answer
    scope: Scope = Scope.LANE


class Withdrawn(Struct, frozen=True):
    """It was not sent: its token was deleted, or its lifetime ended, while it still waited for a connection."""

    answer: Answer


Outcome = Delivered | TokenDead | RetryLater | Refused | Misconfigured | Withdrawn
