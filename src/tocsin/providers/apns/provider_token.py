"""The JWT with which requests to Apple are signed, where no certificate is used.

Source: Apple, "Establishing a token-based connection to APNs": a provider token is valid for an hour and may be renewed
at most every 20 minutes, whichever machine renews it. So every process makes the same token, without asking another:
the time of issue is the last full or half hour, and the signature is deterministic (RFC 6979).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.utils import base64url_encode, der_to_raw_signature

ISSUED_EVERY_S: Final = 30 * 60
"""The times of issue are multiples of it (Unix time). A process renews its token at such a time, but keeps one that it
has begun to use lately: so none gets older than 51 minutes."""
LEAST_AGE_S: Final = 20 * 60 + 60
"""Apple counts its 20 minutes from when it saw the token first, which is later than when this process made it."""
_EXTRA_EVERY_S: Final = 60
"""The same for a token that replaces one which Apple has called expired: most processes are told within a minute."""
_CLOCK_STEP_S: Final = 300.0
"""A wall clock that was set by more has put a wrong time into the token."""


class ProviderToken:
    """The provider token of one (key, team), shared by every connection that uses the key.

    Its age is for how long this process has used it, by the monotonic clock; only what Apple is told (`iat`) follows
    the wall clock.
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
        self._issued_at = 0
        """What the token says of itself (`iat`): Unix seconds."""
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
        if self._header is None or self._clock_was_set():
            self.in_doubt = False
            return self._mint(self._regular())
        if self.age_s >= LEAST_AGE_S:
            regular = self._regular()
            if regular > self._issued_at:
                self.in_doubt = self._dead
                return self._mint(regular)
            if self._dead:
                return self._mint(self._extra())
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
            regular = self._regular()
            self._mint(regular if regular > self._issued_at else self._extra())
            self._renewed_for_doubt = True
        return True

    def accepted(self, used: bytes | None) -> None:
        """Apple has accepted the token `used`. To be called only while one is in doubt."""
        if used == self._header:
            self.in_doubt = self._dead = False

    def _clock_was_set(self) -> bool:
        return abs(self._wall_clock() - self._monotonic() - self._ahead) > _CLOCK_STEP_S

    def _regular(self) -> int:
        """When the token was issued that all processes use now."""
        return int(self._wall_clock()) // ISSUED_EVERY_S * ISSUED_EVERY_S

    def _extra(self) -> int:
        """When a token is issued that replaces the present one before its time."""
        issued_at = int(self._wall_clock()) // _EXTRA_EVERY_S * _EXTRA_EVERY_S
        return issued_at if issued_at != self._issued_at else issued_at + 1

    def _mint(self, issued_at: int) -> bytes:
        self._minted = self._monotonic()
        self._ahead = self._wall_clock() - self._minted
        self._dead = self._renewed_for_doubt = False
        self._issued_at = issued_at
        self._header = b"bearer " + _signed(self._key, self._key_id, self._team_id, issued_at)
        return self._header


def _signed(key_pem: str, key_id: str, team_id: str, issued_at: int) -> bytes:
    """The JWT (ES256, RFC 7518, section 3.4): the same bytes whichever process makes it."""
    parts = {"alg": "ES256", "typ": "JWT", "kid": key_id}, {"iss": team_id, "iat": issued_at}
    text = b".".join([base64url_encode(msgspec.json.encode(part)) for part in parts])
    key = cast(EllipticCurvePrivateKey, load_pem_private_key(key_pem.encode(), None))
    signature = key.sign(text, ECDSA(SHA256(), deterministic_signing=True))
    return text + b"." + base64url_encode(der_to_raw_signature(signature, key.curve))
