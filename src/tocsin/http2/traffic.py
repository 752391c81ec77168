"""What is counted of an origin's connections: longer than each of them lives, and longer than its pool."""

from __future__ import annotations

from tocsin.histogram import PROVIDER_S, Histogram


class Traffic:
    """Shared by all pools of one origin."""

    def __init__(self) -> None:
        self.opened = 0
        """Connections opened in all."""
        self.goaways = 0
        """GOAWAY frames received (RFC 9113, 6.8)."""
        self.took = Histogram(PROVIDER_S)
        """From when a request was given to a connection until its answer: of a sample of the requests."""
