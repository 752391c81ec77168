"""How one node is doing, as a value that it publishes."""

from __future__ import annotations

import os
import socket
from enum import StrEnum
from typing import Final

from msgspec import Struct

from tocsin.domain.routes import LaneStatus

GONE_AFTER_S: Final = 15.0
"""A node that has not told how it is for so long is gone: it tells every second."""


def host_and_process() -> str:
    """What a process is called where it was given no name."""
    return f"{socket.gethostname()}:{os.getpid()}"


class NodeRole(StrEnum):
    """What of the service a process does."""

    ALL = "all"
    API = "api"
    """It serves the API, and delivers nothing."""
    DELIVERY = "delivery"
    """It delivers, and serves health and metrics alone."""

    @property
    def delivers(self) -> bool:
        return self is not NodeRole.API

    @property
    def serves_api(self) -> bool:
        return self is not NodeRole.DELIVERY


class FuseCount(Struct, frozen=True):
    """How many of an account's attempts this node has counted for the fuse since a moment, and how many tokens of them
    were declared dead."""

    provider: str
    account: str
    since_ms: int
    """The store's time, Unix milliseconds."""
    attempts: int
    dead: int


class NodeFigures(Struct, frozen=True, omit_defaults=True):
    """What a process counts. Each triple is of accepted events, of attempts that the provider took, and of those that
    it did not."""

    totals: tuple[int, int, int]
    """Since its start."""
    per_s: tuple[float, float, float]
    """Over the last seconds, as many as `service.figures.WINDOW_S`."""
    took: list[tuple[int, int]] = []
    """How long deliveries took within the last minute: for each bucket of `service.figures` that has any, its number
    and their count."""
    took_lately: list[tuple[int, int]] = []
    """The same over the seconds of `per_s`."""


class NodeStatus(Struct, frozen=True):
    """One process of tocsin at one moment. Nodes of two versions read each other's: a new field has a default."""

    node: str
    """Its name: host and process id."""
    version: str
    at_ms: int
    """The store's time, Unix milliseconds."""
    problems: list[str]
    """Why it is not ready, a sentence each; empty when it is."""
    lanes: list[LaneStatus]
    fuses: list[FuseCount] = []
    """Of accounts whose tokens have died within the minute."""
    figures: NodeFigures | None = None
    """None from a version that does not tell them."""
    delivers: bool = True
    """Whether it delivers, or serves the API alone."""
    backlog_events: int = 0
    """How many events wait in the logs from which it delivers."""
    oldest_ms: int | None = None
    """When the oldest of them was accepted, as it was a few seconds ago."""

    def is_gone(self, now_ms: int) -> bool:
        """Whether it has not told for so long that it is not alive, or cut off. `now_ms` is the store's time."""
        return now_ms - self.at_ms > GONE_AFTER_S * 1000
