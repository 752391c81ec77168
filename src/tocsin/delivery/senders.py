"""Through whom each device is reached: its provider, or nobody where that is not set up any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tocsin.domain.devices import Address, Device
from tocsin.domain.outcomes import Answer, Misconfigured, Outcome
from tocsin.domain.routes import Route
from tocsin.providers.base import Push, Sender


class Senders(dict[str, Sender]):
    """The providers by name. A name that is none of theirs has a sender that tells the operator so."""

    def __init__(self, report: Callable[[list[tuple[Push, Outcome]]], None]) -> None:
        super().__init__()
        self._report = report

    def __missing__(self, name: str) -> Sender:
        sender = self[name] = NoProvider(name, self._report)
        return sender


class NoProvider:
    """For devices of a provider that was set up when they registered: they are kept, and tried again slowly."""

    def __init__(self, name: str, report: Callable[[list[tuple[Push, Outcome]]], None]) -> None:
        self._route = Route(name, "", f"{name}:")
        self._outcome = Misconfigured(Answer(0, f"no provider {name} is set up here"))
        self._report = report

    def route(self, device: Device) -> Route:
        return self._route

    def send(self, pushes: Sequence[Push]) -> None:
        self._report([(push, self._outcome) for push in pushes])

    def learned(self, push: Push) -> Address:
        return push.device.address

    def resume(self) -> None:
        """Nothing waits here."""
