"""The rules of registrations that every store uses: which ones a dead token ends, and what may come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tocsin.domain.devices import Device, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.store.audit_chain import Action, Change, Detail, shortened
from tocsin.store.records import DeadToken, TokenDeleted

BY_ITS_USER: Final = "deleted by its user"
BY_THE_OPERATOR: Final = "removed by the operator"
EVICTED: Final = "evicted: the user registered more tokens than allowed"


def is_ended(reason: str) -> bool:
    """Whether its own user has deleted the registration: it never comes back, whatever became of it before."""
    return reason.endswith(BY_ITS_USER)


def too_many(registered: Sequence[Device], key: str, max_tokens: int) -> list[Device]:
    """Which of an owner's devices are evicted for the one that is just being registered (`key`): those registered
    longest ago, and never this one, whatever a clock that was set back says of its age."""
    others = [other for other in registered if other.key != key]
    return sorted(others, key=registered_us)[: max(0, len(others) + 1 - max_tokens)]


def registered_us(device: Device) -> int:
    return device.registered_us


def dead_registrations(dead: DeadToken, found: Sequence[Device]) -> list[Device]:
    """Those that are certainly older than what the provider said (`records.DeadToken`)."""
    if dead.before_us is not None:
        return [device for device in found if device.registered_us < dead.before_us]
    asked = next((device for device in found if _is_registration(device, dead.device)), None)
    if asked is None:
        return []
    return [device for device in found if device is asked or device.registered_us < asked.registered_us]


def _is_registration(found: Device, device: Device) -> bool:
    # By the owner too: generations that a migration made are the times of registration, which two owners may share.
    return found.generation == device.generation and found.owner == device.owner


def deleted(device: Device) -> TokenDeleted:
    return TokenDeleted(device.owner, device.provider, device.token)


def device_change(
    action: Action, provider: str, token: DeviceToken, *, owner: UserId | None = None, **details: Detail
) -> Change:
    """What the audit log is told of one device."""
    return Change(action, f"{provider}:{shortened(token)}", details, owner)


def registered_by_somebody(registrations: Sequence[Registration]) -> Change:
    """And of registrations."""
    if len(registrations) > 1:
        return Change(Action.DEVICE_ADD, details={"registrations": len(registrations)})
    [one] = registrations
    return device_change(Action.DEVICE_ADD, one.provider, one.token, owner=one.owner)
