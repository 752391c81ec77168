"""The ways by which devices are reached, and the lanes that they belong to."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Route(Struct, frozen=True, cache_hash=True):
    """One way to reach a device. Made by its provider, which alone decides how it is called.

    Deliveries by routes of one `lane` share its bounds, its breaker and its pauses.
    """

    provider: str
    account: str
    """Whose credential is used: an application (APNs), a project (FCM)."""
    lane: str
    """The lane's name, unique over all providers. It is never taken apart: what it is made of stands beside it."""
    environment: str = ""
    """Which of the provider's environments; empty where it has only one."""
    topic: str = ""
    """The part of the account that can be misconfigured by itself (APNs: the topic); empty where there is none."""
    variant: str = ""
    """The provider's own, where two routes differ in nothing else (FCM: the field of the message)."""


class LaneState(StrEnum):
    RUNNING = "running"
    OPEN = "open"
    """The breaker is open: the provider failed too often; a probe is sent after a growing pause."""
    PAUSED = "paused"
    """Paused: the provider asked for it, or something is misconfigured, with a slow attempt now and then."""


class PauseStatus(Struct, frozen=True):
    """Why a lane, or one topic of it, does not send. Times are relative to when this was asked, in seconds."""

    cause: str
    """`provider` (the breaker is open), `rate`, `credential` or `topic`."""
    reason: str
    """As the provider said it."""
    for_s: float
    """Since how long."""
    next_in_s: float
    """When one delivery is sent to see whether the cause still stands; 0 where it is due."""
    probing: bool
    """Whether that delivery is on its way."""
    topic: str = ""


class LaneStatus(Struct, frozen=True):
    """One lane at one moment, for readiness, metrics and the admin API."""

    name: str
    state: LaneState
    reason: str
    in_flight: int
    waiting: int
    misconfigured_topics: dict[str, str] = {}
    fuse_blown: bool = False
    provider: str = ""
    environment: str = ""
    account: str = ""
    misconfigured_devices: int = 0
    """How many devices are paused, each for itself alone."""
    pauses: list[PauseStatus] = []
    """Those of the lane first, what the operator can mend before the others; then those of its topics."""
    parked_due_ms: int | None = None
    """When the first of what is parked in the store for the lane is due, as it was about a second ago; None where
    nothing is parked. `waiting` does not count it."""
