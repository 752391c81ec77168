"""The JWT with which requests to Apple are signed, where no certificate is used.

Source: Apple, "Establishing a token-based connection to APNs": a provider token is valid for an hour and may be renewed
at most every 20 minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jwt

RENEWED_AT_S: Final = 50 * 60
LEAST_AGE_S: Final = 20 * 60 + 60
"""Apple counts its 20 minutes from when it saw the token first, which is later than when it was made."""
_CLOCK_STEP_S: Final = 300.0
"""A wall clock that was set by more has put a wrong time into the token."""


class ProviderToken:
    """The provider token of one (key, team), shared by every connection that uses the key.

    Its age counts by the monotonic clock; only what Apple is told (`iat`) is the wall clock's time.
    """

    def __init__(
        self,
        key_pem: str,
        key_id: str,
        team_id: str,
        *,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """`wall_clock` gives Unix seconds, `monotonic` seconds."""
        self._key = key_pem
        self._key_id = key_id
        self._team_id = team_id
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._header: bytes | None = None
        self._minted = 0.0
        self._ahead = 0.0
        """How far the wall clock was ahead of the monotonic one when the token was minted."""
        self.in_doubt = False
        """Apple has called a token expired, and has accepted none since: see `accepted`."""
        self._renewed_for_doubt = False
        """It was minted because the one before was called expired, whatever the age of that."""
        self._dead = False
        """It was called expired although it was new: it is replaced as soon as Apple allows it."""

    @property
    def age_s(self) -> float:
        return self._monotonic() - self._minted

    @property
    def is_in_use(self) -> bool:
        """Whether it was made already; before that it has no age."""
        return self._header is not None

    def header(self) -> bytes:
        """The `authorization` header's value; the same bytes until it is time for new ones."""
        if self._header is None or self.age_s >= RENEWED_AT_S or self._clock_was_set():
            self.in_doubt = False
            self._mint()
        elif self._dead and self.age_s >= LEAST_AGE_S:
            self._mint()
        assert self._header is not None
        return self._header

    def expired(self, used: bytes | None) -> bool:
        """Apple calls the token `used` expired: renew it, whatever its age, but once only; Apple allows no more before
        it is 20 minutes old.

        Returns whether trying again makes sense: False when the next token is called expired too, and none was accepted
        in between.
        """
        if used is not None and used != self._header:
            return True
        if self.in_doubt:
            self._dead = True
            return False
        self.in_doubt = True
        if not self._renewed_for_doubt or self.age_s >= LEAST_AGE_S:
            self._mint()
            self._renewed_for_doubt = True
        return True

    def accepted(self, used: bytes | None) -> None:
        """Apple has accepted the token `used`. To be called only while one is in doubt."""
        if used == self._header:
            self.in_doubt = self._dead = False

    def _clock_was_set(self) -> bool:
        return abs(self._wall_clock() - self._monotonic() - self._ahead) > _CLOCK_STEP_S

    def _mint(self) -> None:
        now_s = self._wall_clock()
        self._minted = self._monotonic()
        self._ahead = now_s - self._minted
        self._dead = self._renewed_for_doubt = False
        claims = {"iss": self._team_id, "iat": int(now_s)}
        token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
        self._header = b"bearer " + token.encode()
