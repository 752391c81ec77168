"""How one node is doing, as a value that it publishes."""

from __future__ import annotations

import os
import socket
from enum import StrEnum

from msgspec import Struct

from tocsin.domain.routes import LaneStatus


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


class NodeStatus(Struct, frozen=True):
    """One process of tocsin at one moment."""

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
