"""tocsin's own sessions, which are in the store."""

from __future__ import annotations

from tocsin.sign_in.verdicts import Refused, SignedIn, Verdict
from tocsin.store.ports import Access


class OwnSessions:
    """See `Verifier`."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def verify(self, text: str) -> Verdict:
        session = await self._access.session(text)
        if session is None:
            return Refused("it is not a session of tocsin, or was revoked, or has expired")
        if session.owner is None:
            return Refused("nobody has signed in to this session", nobody=True)
        return SignedIn(session.owner, "a session of tocsin")
