"""The life of a client's connection."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a connection is in its life: it goes forward only, and may skip a state.

    OPENING ──▶ ACTIVE ──▶ DRAINING ──▶ CLOSED or LOST
    """

    OPENING = "opening"
    """The peer's SETTINGS have not come: one stream is assumed, as Apple asks for at the start."""
    ACTIVE = "active"
    """The peer's SETTINGS_MAX_CONCURRENT_STREAMS holds (RFC 9113, 5.1.2)."""
    DRAINING = "draining"
    """No new requests; those in flight finish. The peer sent GOAWAY (RFC 9113, 6.8), the stream ids run out, or the
    pool replaces the connection."""
    CLOSED = "closed"
    """Closed by this side: the pool asked for it, or it took no new requests and none was in flight."""
    LOST = "lost"
    """Ended otherwise: by the peer, by the network, by an error of the engine, or because a PING got no answer."""
