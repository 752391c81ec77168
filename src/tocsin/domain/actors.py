"""Who changes something, and from where: what the audit log says of an operator, a user, or a command."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

COMMAND_LINE: Final = "command line"
"""The `source` of what a command does."""


class ActorKind(StrEnum):
    KEY = "key"
    """An operator's or a backend's API key; the `id` is the key's."""
    USER = "user"
    """A signed-in user; the `id` is the user's. In an entry of the audit log it is the user's pseudonym."""
    SYSTEM_USER = "system-user"
    """Whoever runs a command; the `id` is the name of the account on the machine."""
    JOB = "job"
    """A bulk action that goes on by itself; the `id` is the job's. Who has created it stands in its own entry."""


class Actor(Struct, frozen=True):
    kind: ActorKind
    id: str
    source: str
    """The address that the request came from, or `COMMAND_LINE`."""

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"
