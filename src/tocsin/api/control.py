"""What the API needs to know about delivery."""

from __future__ import annotations

from typing import Protocol

from tocsin.domain.routes import LaneStatus


class DeliveryControl(Protocol):
    """How delivery is doing. Every call is synchronous and cheap, and changes nothing."""

    def lanes(self) -> list[LaneStatus]:
        """The present status of every lane."""

    def problems(self) -> list[str]:
        """Why the service is not ready, a sentence each; empty when it is."""

    def notes(self) -> list[str]:
        """What is wrong and does not keep it from accepting over HTTP and delivering, a sentence each."""
