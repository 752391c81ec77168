"""The limits of a pool."""

from __future__ import annotations

from msgspec import Struct


class PoolOptions(Struct, frozen=True):
    """How many connections and requests, how long each may take, and by which proxy."""

    max_connections: int = 8
    max_streams: int = 1000
    """Requests in flight per connection, whatever more the peer may allow."""
    request_timeout_s: float = 30.0
    """From when the request is given to the pool until its answer."""
    connect_timeout_s: float = 10.0
    """TCP, a proxy's CONNECT and TLS together."""
    ping_after_s: float = 60.0
    """Nothing read for so long: a PING is sent (RFC 9113, 6.7). Where requests time out it is sent at once."""
    ping_timeout_s: float = 10.0
    """Nothing read for so long after it: the connection has failed."""
    without_streams_s: float = 5.0
    """The peer has allowed no stream for so long: the connection is replaced (RFC 9113, 6.5.2: a limit of 0 is for
    short durations)."""
    proxy: str | None = None
    """`http://[user:password@]host:port`."""
