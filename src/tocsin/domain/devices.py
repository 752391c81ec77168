"""A user's devices: one registration of a device token by one user."""

from __future__ import annotations

from typing import NewType

from msgspec import Struct

from tocsin.domain.events import UserId

DeviceToken = NewType("DeviceToken", str)
Address = NewType("Address", str)
"""How a provider reaches a device, beside its token: what was registered with it, and what deliveries have learned
since. Only the provider reads and writes it; everybody else stores it and hands it on. Devices that are reached alike
have the same address, character by character."""


class Registration(Struct, frozen=True):
    """What a user's app registers. The store adds when, and under which generation."""

    owner: UserId
    provider: str
    token: DeviceToken
    address: Address = Address("")


class Complaint(Struct, frozen=True, array_like=True, gc=False):
    """What its provider says of one device alone: pushes to it are kept and tried again, and nobody else waits.

    It ends when a push is taken for the device, and with the registration.
    """

    reason: str
    """The provider's answer: status and reason."""
    since_ms: int
    """When it was said first, Unix milliseconds."""
    last_ms: int
    """When it was said last, as far as it was noted: about once a day."""
    account: str
    """The application or project by which the push was sent."""
    topic: str
    """The topic that the device does not belong to; empty where the complaint is not about one."""

    def lasting(self, days: int) -> str:
        """Why the registration was put into quarantine, as its history tells it."""
        return f"{self.reason} for {days} days"


class Device(Struct, frozen=True, array_like=True, gc=False):
    """One registration of a device token by one user, as the store has it.

    A token that is registered again is a new registration: it gets a new `generation`, a number that no other
    registration of the token has had, and what deliveries had learned is forgotten.
    """

    owner: UserId
    provider: str
    token: DeviceToken
    address: Address
    registered_us: int
    """The store's time, Unix microseconds."""
    generation: int
    last_success_ms: int | None = None
    """When a provider last took a push for it, Unix milliseconds; noted about once a day."""
    complaint: Complaint | None = None
    """What the provider has said of it since; None where it was reached, or was not tried yet."""

    @property
    def key(self) -> str:
        """What names this registration among those of its owner: `<provider>:<token>`."""
        return f"{self.provider}:{self.token}"
