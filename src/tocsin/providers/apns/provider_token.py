"""The JWT with which requests to Apple are signed, where no certificate is used.

Source: Apple, "Establishing a token-based connection to APNs": a provider token is valid for an hour and may be renewed
at most every 20 minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jwt

RENEWED_AT_S: Final = 50 * 60
LEAST_AGE_S: Final = 20 * 60
_CLOCK_STEP_S: Final = 300.0


class ProviderToken:
    """The provider token of one (key, team), shared by every connection that uses the key."""

    def __init__(self, key_pem: str, key_id: str, team_id: str, clock: Callable[[], float]) -> None:
        self._key = key_pem
        self._key_id = key_id
        self._team_id = team_id
        self._clock = clock
        """Unix seconds."""
        self._header: bytes | None = None
        self._minted = 0.0
        self._called_expired = False

    @property
    def age_s(self) -> float:
        return self._clock() - self._minted

    def header(self) -> bytes:
        """The `authorization` header's value; the same bytes until it is time for new ones."""
        if self._header is None or not -_CLOCK_STEP_S <= self.age_s < RENEWED_AT_S:
            self._called_expired = False
            self._mint()
        assert self._header is not None
        return self._header

    def expired(self, used: bytes | None) -> bool:
        """Apple calls the token `used` expired: renew it, whatever its age, but only once until it is due for renewal.

        Returns whether trying again makes sense: False when the new one was called expired too.
        """
        if used is not None and used != self._header:
            return True
        if self._called_expired:
            return False
        self._called_expired = True
        self._mint()
        return True

    def _mint(self) -> None:
        self._minted = self._clock()
        claims = {"iss": self._team_id, "iat": int(self._minted)}
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
        self._header = b"bearer " + token.encode()
