"""What the API needs to know about delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.domain.credentials import Check
from tocsin.domain.devices import Device
from tocsin.domain.events import Event
from tocsin.domain.routes import LaneStatus
from tocsin.providers.base import AccountStatus, Preview


class Latency(Struct, frozen=True):
    """Milliseconds from acceptance to the provider's, of a sample; None where there was none."""

    p50: float | None
    p90: float | None
    p99: float | None
    samples: int
    window_s: int


class Figures(Struct, frozen=True):
    """Totals since the start, rates per second over `window_s`, and latency: of `nodes` together."""

    accepted: int
    sent: int
    failed: int
    accepted_per_s: float
    sent_per_s: float
    failed_per_s: float
    window_s: int
    latency: Latency
    nodes: list[str]


class Moment(Struct, frozen=True):
    """One second of the history: rates per second, and what waited at its end."""

    at_ms: int
    accepted: float
    sent: float
    failed: float
    backlog: int
    p99_ms: float | None


class DeliveryControl(Protocol):
    """How delivery is doing. Every call but `check` is synchronous and cheap, and changes nothing that is delivered."""

    @property
    def node(self) -> str:
        """What this process is called."""

    @property
    def delivers(self) -> bool:
        """Whether this process delivers, and not the other nodes alone."""

    def lanes(self) -> list[LaneStatus]:
        """The present status of every lane of this process."""

    def problems(self) -> list[str]:
        """Why the service is not ready, a sentence each; empty when it is."""

    def notes(self) -> list[str]:
        """What is wrong and does not keep it from accepting over HTTP and delivering, a sentence each."""

    def accepted(self, events: Sequence[Event]) -> None:
        """These events were ingested: counted."""

    def figures(self) -> Figures:
        """How all nodes together are doing."""

    def history(self) -> Iterable[Moment]:
        """The last minutes, the oldest first."""

    def preview(self, event: Event, device: Device) -> Preview:
        """The push of an event to a device, as it would be sent now.

        Raises:
            ValueError: it cannot be rendered; the message says why.
        """

    def accounts(self) -> Mapping[str, list[AccountStatus]]:
        """The credentials in use, by provider."""

    async def check(self, provider: str, account: str, *, sandbox: bool) -> Check:
        """Ask the provider whether it accepts a credential.

        Raises:
            KeyError: there is no such provider, or no credential of this account.
        """
