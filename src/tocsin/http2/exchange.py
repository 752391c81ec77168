"""A request as a server's handler sees it, its answer, and what a handler may do to the connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from msgspec import Struct

from tocsin.http2.messages import Header


class ServedConnection(Protocol):
    """The server's side of a connection, over HTTP/2 or HTTP/1.1; its methods are all that a fault script needs."""

    requests: int
    """Requests that were given to the handler."""
    newest_handled: int
    """The highest stream id of a request that was given to the handler."""
    peer_certificate: bytes | None
    """The client's certificate (DER)."""
    state: dict[str, Any]
    """For the application, per connection."""

    @property
    def in_flight(self) -> int:
        """Requests that have begun and are not answered."""

    def answer(self, exchange: Exchange, reply: Reply) -> None:
        """Answer a request whose handler returned None; ignored where the client has given it up."""

    def reset(self, exchange: Exchange, error_code: int) -> None:
        """End one request without an answer: RST_STREAM (RFC 9113, 6.4)."""

    def goaway(self, last_stream_id: int | None = None, error_code: int = 0, debug: bytes = b"") -> None:
        """GOAWAY (RFC 9113, 6.8): requests above `last_stream_id` (None: the newest that came) are not processed.

        The others are answered, then the connection closes.
        """

    def goaway_gracefully(self) -> None:
        """A notice first, the GOAWAY a moment later, so that no request on its way is refused (RFC 9113, 6.8)."""

    def set_max_streams(self, limit: int) -> None:
        """Send SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113, 6.5.2)."""

    def cut(self, exchange: Exchange, reply: Reply, *, keep_headers: bool) -> None:
        """End the connection in the middle of an answer: within its header fields, or within its body."""

    def pause_reading(self, seconds: float) -> None:
        """Read nothing for a while."""

    def close(self) -> None:
        """Write what is ready, then end the connection; open requests get no answer."""

    def abort(self) -> None:
        """End the connection at once, without another byte."""


_WITHOUT_CONTENT: Final = frozenset({204, 205, 304})


class Reply(Struct, frozen=True):
    """An answer: status, header fields, body."""

    status: int
    headers: Sequence[Header] = ()
    body: bytes = b""

    @property
    def content(self) -> bytes:
        """The body as it is sent: an answer of some statuses has none (RFC 9110, 6.4.1)."""
        return self.body if self.status not in _WITHOUT_CONTENT else b""


class Exchange(Struct, eq=False):
    """One request, and the connection on which to answer it. Over HTTP/1.1 the pseudo-header fields are there, too.

    A Struct for its speed: one of these is made per request.
    """

    connection: ServedConnection
    stream_id: int
    headers: Sequence[Header]
    body: bytes = b""

    def reply(self, reply: Reply) -> None:
        """See `ServedConnection.answer`."""
        self.connection.answer(self, reply)


Handler = Callable[[Exchange], Reply | None]
"""Answers a request at once, or returns None and answers later with `Exchange.reply`, or never."""
