"""What is found out about the text that a caller gives as the session."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from tocsin.domain.events import UserId


class SignedIn(Struct, frozen=True):
    """It is the session of this user."""

    owner: UserId
    by: str
    """What vouches for it, for people."""


class Refused(Struct, frozen=True):
    """It is not valid, or nobody's. The reason quotes nothing of it."""

    reason: str
    nobody: bool = False
    """It is valid, but nobody has signed in."""


class Unavailable(Struct, frozen=True):
    """It is not known whether it is valid: who knows cannot be asked."""

    reason: str
    retry_after_s: int = 5


Verdict = SignedIn | Refused | Unavailable


class Verifier(Protocol):
    async def verify(self, text: str) -> Verdict:
        """Whose session it is.

        Raises:
            StoreUnavailable: the store was asked, and cannot be read.
        """
