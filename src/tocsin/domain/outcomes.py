"""What an attempt's answer means: every answer of a provider becomes one Outcome, in one table per provider."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from tocsin.domain.lanes import Route


class Scope(StrEnum):
    """Whom a fault is about, and so who waits."""

    DEVICE = "device"
    LANE = "lane"


class Backoff(Struct, frozen=True):
    """When again: up to `first_s` after the first fault, doubling up to `cap_s`.

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
    """The provider says that the token is gone for good, as of `timestamp_ms` (Unix) where it says when."""

    answer: Answer
    timestamp_ms: int | None = None


class RetryLater(Struct, frozen=True):
    """Not now. `after_s` is the provider's own word (Retry-After), else `backoff` decides.

    `fault` counts towards the lane's breaker, `shared_fault` as one with all that failed together (a connection lost
    under a thousand requests is one fault); `unknown` says that the push may have arrived all the same;
    `pause_s` is for how long the whole lane is to wait, and all `pause_lanes`;
    `next_route` names another way to the same device that is worth trying at once.
    """

    answer: Answer
    backoff: Backoff
    after_s: float | None = None
    scope: Scope = Scope.DEVICE
    fault: bool = False
    shared_fault: bool = False
    unknown: bool = False
    pause_s: float | None = None
    pause_lanes: tuple[str, ...] = ()
    next_route: Route | None = None


class Refused(Struct, frozen=True):
    """This payload or this device is wrong, and trying again will not help. `our_bug` is logged at error."""

    answer: Answer
    our_bug: bool = False


class Misconfigured(Struct, frozen=True):
    """A credential, project or topic is wrong: nothing is lost, the operator is told, it is tried again slowly.

    `topic` narrows it to one APNs topic of the application; None means the whole lane.
    """

    answer: Answer
    topic: str | None = None


class Withdrawn(Struct, frozen=True):
    """It was not sent: its token was deleted, or its lifetime ended, while it still waited for a connection."""

    answer: Answer


Outcome = Delivered | TokenDead | RetryLater | Refused | Misconfigured | Withdrawn
