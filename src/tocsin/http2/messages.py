"""A request on its way through a pool, and the ways in which it can end without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from ngh2 import NeverIndexedHeader

Header = tuple[bytes, bytes]


def unindexed(name: bytes, value: bytes) -> Header:
    """A field whose value never repeats: it stays out of the HPACK dynamic table."""
    # Past the named tuple's own constructor, which is a Python function: one of these is made per delivery.
    return tuple.__new__(NeverIndexedHeader, (name, value))


class FailureKind(StrEnum):
    CONNECT = "connect"
    """No connection could be opened: the request was never sent."""
    LOST = "lost"
    """The connection ended under the request."""
    RESET = "reset"
    """The peer reset the stream."""
    TIMEOUT = "timeout"
    """No answer within the deadline."""
    WITHDRAWN = "withdrawn"
    """Whoever asked for it no longer wants it, and it was not sent."""


class Failure:
    """Why there is no answer. `unknown` where the request may have been processed all the same."""

    __slots__ = ("detail", "kind", "unknown")

    def __init__(self, kind: FailureKind, detail: str, *, unknown: bool) -> None:
        self.kind = kind
        self.detail = detail
        self.unknown = unknown

    def __repr__(self) -> str:
        return f"Failure({self.kind.value}: {self.detail}, unknown={self.unknown})"


class Request:
    """One request, and after its end either `status` with what came, or `failure`.

    `context` is the caller's own, and comes back with it. Mutable and slotted: one of these is made per delivery.
    """

    __slots__ = (
        "body",
        "context",
        "failure",
        "headers",
        "replays",
        "response_body",
        "response_headers",
        "started",
        "status",
        "urgent",
    )

    def __init__(self, headers: Sequence[Header], body: bytes, context: Any = None, urgent: bool = False) -> None:
        self.headers = headers
        self.body = body
        self.context = context
        self.urgent = urgent
        """Overtakes the others while it waits for room."""
        self.status = 0
        self.response_headers: Sequence[Header] = ()
        self.response_body = b""
        self.failure: Failure | None = None
        self.replays = 0
        self.started = 0.0
        """When it was given to the pool (`loop.time()`): its deadline counts from then, whatever it waits for."""

    def response_header(self, name: bytes) -> bytes | None:
        for key, value in self.response_headers:
            if key == name:
                return value
        return None
