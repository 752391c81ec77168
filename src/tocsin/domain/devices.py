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

    @property
    def key(self) -> str:
        """What names this registration among those of its owner: `<provider>:<token>`."""
        return f"{self.provider}:{self.token}"
