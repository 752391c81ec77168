"""Verifies provider tokens: the JWT with which a sender proves to Apple that it holds a team's key.

Source: Apple, "Establishing a token-based connection to APNs". A verified token is remembered by the value of its
header field, so that most requests cost one look-up.
"""

from __future__ import annotations

from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from tocsin.emulator.apns_reasons import ApnsRefusal, Reason
from tocsin.emulator.counters import Counters
from tocsin.emulator.options import Clock

LIFETIME_S: Final = 3600
"""Apple refuses a provider token that is older than one hour."""
_CLOCK_SKEW_S: Final = 60
_MAX_REMEMBERED: Final = 10_000
_STATE_KEY: Final = "provider_token"


class ProviderTokenOptions(Struct, frozen=True):
    """Which provider tokens are valid."""

    team_id: str
    key_id: str
    key_pem: bytes
    """The team's private key (PEM); tokens are verified with its public key."""
    update_interval_s: float = 0.0
    """The shortest time in seconds from when a token was seen first until a connection shows another; Apple's is 1200.
    0: not checked."""


class ProviderTokenVerifier:
    """Verifies the `authorization` header field of requests to both APNs environments."""

    def __init__(self, options: ProviderTokenOptions, counters: Counters, clock: Clock) -> None:
        self._options = options
        self._counters = counters
        self._clock = clock
        key = serialization.load_pem_private_key(options.key_pem, None)
        self._public_key: Any = key.public_key()
        self._issued_at: dict[bytes, float] = {}
        self._seen_first: dict[bytes, float] = {}
        """When each token was seen first, on whatever connection (Unix seconds)."""

    def check(self, header: bytes | None, state: dict[str, Any]) -> None:
        """Check the `authorization` field of one request; `state` is the state of its connection.

        Raises:
            ApnsRefusal: the token is missing, not valid, expired, or replaced another one too soon.
        """
        if header is None:
            raise ApnsRefusal(Reason.MISSING_PROVIDER_TOKEN)
        issued_at = self._issued_at.get(header)
        if issued_at is None:
            issued_at = self._verify(header)
        now = self._clock()
        if now - issued_at > LIFETIME_S:
            raise ApnsRefusal(Reason.EXPIRED_PROVIDER_TOKEN)
        if self._options.update_interval_s:
            self._check_update(header, state, now)

    def see(self, header: bytes | None) -> None:
        """Note the token of a request that is answered without being checked."""
        if header is not None and self._options.update_interval_s:
            self._see(header, self._clock())

    def _check_update(self, header: bytes, state: dict[str, Any], now: float) -> None:
        current = state.get(_STATE_KEY, header)
        if current != header and now - self._seen_first.get(current, 0.0) < self._options.update_interval_s:
            raise ApnsRefusal(Reason.TOO_MANY_PROVIDER_TOKEN_UPDATES)
        self._see(header, now)
        state[_STATE_KEY] = header

    def _see(self, header: bytes, now: float) -> None:
        if len(self._seen_first) >= _MAX_REMEMBERED:
            self._seen_first.clear()
        self._seen_first.setdefault(header, now)

    def _verify(self, header: bytes) -> float:
        """Verify signature, key id, team id and time of issue; returns the time of issue in Unix seconds."""
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ApnsRefusal(Reason.MISSING_PROVIDER_TOKEN)
        self._counters.provider_tokens_verified += 1
        invalid = ApnsRefusal(Reason.INVALID_PROVIDER_TOKEN)
        try:
            if jwt.get_unverified_header(token).get("kid") != self._options.key_id:
                raise invalid
            claims = jwt.decode(
                token,
                self._public_key,
                algorithms=["ES256"],
                options={"verify_aud": False, "verify_iat": False, "verify_exp": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError:
            raise invalid from None
        issued_at = claims.get("iat")
        if claims.get("iss") != self._options.team_id or not isinstance(issued_at, int | float):
            raise invalid
        if issued_at > self._clock() + _CLOCK_SKEW_S:
            raise invalid
        if len(self._issued_at) >= _MAX_REMEMBERED:
            self._issued_at.clear()
        self._issued_at[header] = issued_at
        return issued_at
