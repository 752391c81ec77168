"""How one node is doing, as a value that it publishes."""

from __future__ import annotations

from msgspec import Struct

from tocsin.domain.routes import LaneStatus


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
