"""What a lane is called, and how it says that it is well."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class LaneState(StrEnum):
    RUNNING = "running"
    OPEN = "open"
    """The breaker is open: the provider failed too often; a probe goes out after a growing pause."""
    PAUSED = "paused"
    """Misconfigured: paused until the credential is replaced, with a slow try now and then."""


class Route(Struct, frozen=True):
    """One way to reach a device: the lane, and for FCM the field of the message (`token` or `fid`) that names it."""

    lane: str
    field: str = ""


class LaneStatus(Struct, frozen=True):
    """One lane at one moment, for readiness, metrics and the admin API.

    `name` is `apns:<environment>:<application id>` or `fcm:<project>`.
    """

    name: str
    state: LaneState
    reason: str
    in_flight: int
    waiting: int
    misconfigured_topics: dict[str, str] = {}
    fuse_blown: bool = False


def apns_lane(application_id: str, sandbox: bool) -> str:
    return f"apns:{'sandbox' if sandbox else 'production'}:{application_id}"


def fcm_lane(project: str) -> str:
    return f"fcm:{project}"
