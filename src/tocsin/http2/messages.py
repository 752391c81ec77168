"""A request that is given to a pool, and the reasons for which it can end without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from ngh2 import NeverIndexedHeader

Header = tuple[bytes, bytes]
"""Name (lower case) and value of a header field; pseudo-header fields come first (RFC 9113, 8.3)."""


def unindexed(name: bytes, value: bytes) -> Header:
    """A field whose value does not repeat: the encoder sends it as a never-indexed literal (RFC 7541, 6.2.3)."""
    # Past the named tuple's own constructor, which is a Python function: one of these is made per delivery.
    return tuple.__new__(NeverIndexedHeader, (name, value))


class FailureKind(StrEnum):
    """Why a request has no answer."""

    CONNECT = "connect"
    """No connection could be opened: the request was not sent."""
    LOST = "lost"
    """The connection ended while the request was in flight."""
    RESET = "reset"
    """The peer reset the stream (RFC 9113, 6.4)."""
    TIMEOUT = "timeout"
    """No answer within the deadline."""
    WITHDRAWN = "withdrawn"
    """The caller no longer wants it, and it was not sent."""


class Failure:
    """Why there is no answer: its kind, and a sentence for a person.

    `unknown` says that the peer may have processed the request all the same.
    """

    __slots__ = ("detail", "kind", "unknown")

    def __init__(self, kind: FailureKind, detail: str, *, unknown: bool) -> None:
        self.kind = kind
        self.detail = detail
        self.unknown = unknown

    def __repr__(self) -> str:
        return f"Failure({self.kind.value}: {self.detail}, unknown={self.unknown})"


class Request:
    """One request; when it has ended, it has a `status` with the response, or a `failure`.

    Subclass it to carry what belongs to the request; the pool gives back the very object. Mutable and slotted, because
    one is made per delivery: a subclass says `__slots__`, too.
    """

    __slots__ = (
        "body",
        "failure",
        "headers",
        "resends",
        "response_body",
        "response_headers",
        "started",
        "status",
        "urgent",
    )

    def __init__(self, headers: Sequence[Header], body: bytes, urgent: bool = False) -> None:
        self.headers = headers
        self.body = body
        self.urgent = urgent
        """Comes before those that are not urgent while it waits for a stream."""
        self.status = 0
        """The HTTP status; 0 without an answer."""
        self.response_headers: Sequence[Header] = ()
        self.response_body = b""
        self.failure: Failure | None = None
        self.resends = 0
        """How often it was sent again, because it was certainly not processed (RFC 9113, 8.7)."""
        self.started = 0.0
        """When it was given to the pool (`loop.time()`): its deadline counts from then, whatever it waits for."""

    def response_header(self, name: bytes) -> bytes | None:
        """The first value of a response header field; None where it is absent."""
        for key, value in self.response_headers:
            if key == name:
                return value
        return None


R = TypeVar("R", bound=Request)
"""The caller's own kind of request, which it gets back."""
