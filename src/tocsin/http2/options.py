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
    """Nothing read for so long: a PING is sent (RFC 9113, 6.7)."""
    ping_timeout_s: float = 10.0
    """Nothing read for so long after it: the connection has failed."""
    proxy: str | None = None
    """`http://[user:password@]host:port`."""
