"""A request that is given to a pool, and the reasons for which it can end without an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

from msgspec import Struct
from ngh2 import NeverIndexedHeader

Header = tuple[bytes, bytes]
"""Name (lower case) and value of a header field; pseudo-header fields come first (RFC 9113, 8.3)."""


# Without a function of ours, and past the named tuple's own constructor, which is one: a call per delivery each.
unindexed: Final[Callable[[Header], Header]] = partial(tuple.__new__, NeverIndexedHeader)
"""A field whose value does not repeat: the encoder sends it as a never-indexed literal (RFC 7541, 6.2.3)."""


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


class Request(Struct, eq=False, gc=False):
    """One request; when it has ended, it has a `status` with the response, or a `failure`.

    Subclass it to carry what belongs to the request; the pool gives back the very object. One is made per delivery, so
    it is a Struct, for its speed, and the garbage collector does not look at it: nothing that it holds may refer to it.
    """

    headers: Sequence[Header]
    body: bytes
    urgent: bool = False
    """Comes before those that are not urgent while it waits for a stream."""
    group: str = ""
    """Requests of one group leave streams for those of other groups, see `waiting`; empty: it belongs to none."""
    status: int = 0
    """The HTTP status; 0 without an answer."""
    response_headers: Sequence[Header] = ()
    response_body: bytes = b""
    failure: Failure | None = None
    resends: int = 0
    """How often it was sent again, because it was certainly not processed (RFC 9113, 8.7)."""
    started: float = 0.0
    """When it was given to the pool (`loop.time()`): its deadline counts from then, whatever it waits for."""
    given: float = 0.0
    """When it was given to a connection (`loop.time()`), where it is one of those whose time is looked at; else 0."""
    connection_opened: float = 0.0
    """When the connection was opened on which its answer came (`loop.time()`), where that has a body."""

    def response_header(self, name: bytes) -> bytes | None:
        """The first value of a response header field; None where it is absent."""
        for key, value in self.response_headers:
            if key == name:
                return value
        return None


R = TypeVar("R", bound=Request)
"""The caller's own kind of request, which it gets back."""
