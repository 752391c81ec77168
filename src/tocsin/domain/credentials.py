"""With what a provider is reached, as everybody but the provider knows it."""

from __future__ import annotations

from msgspec import Struct


class Credential(Struct, frozen=True):
    """What reaches the devices of one account of a provider. Only the provider reads the content."""

    provider: str
    account: str
    """The application's id (APNs), or what the operator calls the project (FCM)."""
    content: bytes
    default: bool = False
    """The provider's account for devices that name none. Exactly one of a provider is, if it has any: the first
    one, until another is put as the default, or it is removed."""
    changed_ms: int = 0

    def __repr__(self) -> str:
        """Without the content, which is secret."""
        return f"Credential({self.provider}, {self.account})"


class Check(Struct, frozen=True, kw_only=True):
    """What the provider said when it was asked whether it accepts a credential."""

    at_ms: int
    sandbox: bool
    """Asked was the provider's sandbox."""
    ok: bool
    sentence: str
    """The answer, with the remedy."""
