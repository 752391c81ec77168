"""What became of one event, device by device: it answers why a push did not arrive.

It shows tokens, times and reasons; never the content of the event.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from tocsin.api.timestamps import rfc3339
from tocsin.providers.base import delivery_id
from tocsin.store.records import FINAL, Attempt, EventRecord, Parked, Result

WAITING = "waiting"


class AttemptReport(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One attempt. `status` is the provider's HTTP status; absent when there was no answer."""

    at: str
    result: str
    lane: str
    status: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    provider_id: str | UnsetType = UNSET
    retry_at: str | UnsetType = UNSET


class WaitReport(Struct, frozen=True):
    """What a delivery waits for: its lane, and its time."""

    lane: str
    due_at: str
    tries: int


class DeviceReport(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One delivery. `outcome` is `waiting`, or how it ended."""

    system: str
    device_token: str
    outcome: str
    attempts: list[AttemptReport]
    waiting: WaitReport | UnsetType = UNSET


class EventReport(Struct, frozen=True):
    """One event: where it stands, and every attempt. No devices: none was tried yet, or its owner has none."""

    event_id: str
    owner: str
    message: str
    state: str
    accepted_at: str
    expires_at: str
    devices: list[DeviceReport]


def report(record: EventRecord) -> EventReport:
    """The record by device, in the order of the devices' first attempts."""
    attempts: dict[str, list[Attempt]] = {}
    for attempt in record.attempts:
        attempts.setdefault(attempt.device, []).append(attempt)
    waiting = {device: parked for parked in record.waiting for device in parked.targets}
    event = record.event
    return EventReport(
        event_id=event.id,
        owner=event.owner,
        message=event.message,
        state=record.state.name.lower(),
        accepted_at=rfc3339(event.accepted_ms),
        expires_at=rfc3339(event.expires_ms),
        devices=[_device(event.id, key, attempts.get(key, []), waiting.get(key)) for key in attempts | waiting],
    )


def _device(event_id: str, key: str, attempts: list[Attempt], parked: Parked | None) -> DeviceReport:
    system, _, token = key.partition(":")
    return DeviceReport(
        system=system,
        device_token=token,
        outcome=_outcome(attempts, parked),
        attempts=[_attempt(attempt, provider_id_of(event_id, attempt)) for attempt in attempts],
        waiting=UNSET if parked is None else WaitReport(parked.lane, rfc3339(parked.due_ms), parked.tries),
    )


def _outcome(attempts: list[Attempt], parked: Parked | None) -> str:
    """How the delivery ended; `waiting` while it is parked, or where its last attempt is to be repeated."""
    if parked is None and attempts and attempts[-1].result in FINAL:
        return attempts[-1].result
    return WAITING


def provider_id_of(event_id: str, attempt: Attempt) -> str:
    """The provider's id for a push. Where the provider gave none, it is the id that tocsin sent: it is derived from the
    event and the token, and so it is not stored."""
    if attempt.provider_id or attempt.result != Result.DELIVERED:
        return attempt.provider_id
    return delivery_id(event_id, attempt.device.partition(":")[2])


def _attempt(attempt: Attempt, provider_id: str) -> AttemptReport:
    return AttemptReport(
        at=rfc3339(attempt.at_ms),
        result=attempt.result,
        lane=attempt.lane,
        status=attempt.status or UNSET,
        reason=attempt.reason or UNSET,
        provider_id=provider_id or UNSET,
        retry_at=UNSET if attempt.retry_at_ms is None else rfc3339(attempt.retry_at_ms),
    )
