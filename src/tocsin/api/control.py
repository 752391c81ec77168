"""What the API needs from its neighbours on the other side: from delivery, and from those who read credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from tocsin.domain.events import UserId
from tocsin.domain.lanes import LaneStatus


class DeliveryControl(Protocol):
    """The dispatcher as the API sees it. Every call is synchronous and cheap."""

    def cancel(self, owner: UserId, system: str, token: str) -> None:
        """Stop every delivery of `owner` to this token at once: on the wire, in memory, and queued.

        Called after the deletion is durable and before it is answered, so that the answer can promise it.
        """

    def registered(self, owner: UserId, system: str, token: str) -> None:
        """The token is registered (again): an earlier `cancel` no longer holds for events to come."""

    def lanes(self) -> list[LaneStatus]: ...

    def problems(self) -> list[str]:
        """Sentences that say why the service is not ready; none when it is."""

    def accepted(self) -> None:
        """Events have become durable: wake the dispatcher."""


class CredentialRules(Struct, frozen=True):
    """How an uploaded credential is read: each returns it in the form that is stored, or raises ValueError.

    The error's text says which rule is broken and never quotes the credential.
    """

    key: Callable[[bytes], str]
    certificate: Callable[[bytes], str]
    service_account: Callable[[bytes], str]
    """Returns the project id that the account belongs to."""
