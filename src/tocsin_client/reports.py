"""What became of an event, device by device, as tocsin answers it (`GET /api/events/{id}`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Attempt:
    """One attempt. `status` is the provider's HTTP status, and `reason` its own word; None where there is none."""

    at: str
    result: str
    lane: str
    status: int | None = None
    reason: str | None = None
    provider_id: str | None = None
    retry_at: str | None = None


@dataclass(frozen=True)
class Delivery:
    """One device: `outcome` is `waiting`, `delivered` (the provider has accepted it), `token_dead`, `refused`,
    `expired` or `cancelled`."""

    system: str
    device_token: str
    outcome: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class EventReport:
    """Where an event stands: `state` is `accepted`, `delivering`, `done` or `dead`. Times are RFC 3339, in UTC."""

    event_id: str
    owner: str
    message: str
    state: str
    accepted_at: str
    expires_at: str
    devices: tuple[Delivery, ...]

    @property
    def settled(self) -> bool:
        """Whether every device has its outcome."""
        return self.state in ("done", "dead")

    @property
    def delivered(self) -> int:
        """How many devices' providers have accepted it."""
        return sum(device.outcome == "delivered" for device in self.devices)


_NAMES: Final = ("event_id", "owner", "message", "state", "accepted_at", "expires_at")


def report(answer: Mapping[str, Any]) -> EventReport:
    """The answer as values; names that this version does not know are passed over.

    Raises:
        KeyError, TypeError: it is no such answer.
    """
    devices = tuple(map(_delivery, answer["devices"]))
    return EventReport(**{name: answer[name] for name in _NAMES}, devices=devices)


def _delivery(found: Mapping[str, Any]) -> Delivery:
    attempts = tuple(
        Attempt(**{name: value for name, value in attempt.items() if name in Attempt.__dataclass_fields__})
        for attempt in found["attempts"]
    )
    return Delivery(found["system"], found["device_token"], found["outcome"], attempts)
