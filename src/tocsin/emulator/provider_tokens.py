"""Provider tokens: the JWT by which a sender proves to Apple that it holds a team's key.

Source: Apple, "Establishing a token-based connection to APNs". What has been verified once is remembered by the header
field it came in, so that a request usually pays for one look-up.
"""

from __future__ import annotations

import time
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from tocsin.emulator.apns_reasons import Reason, Refused
from tocsin.emulator.tally import Tally

LIFETIME_S: Final = 3600
_CLOCK_SKEW_S: Final = 60
_MOST_REMEMBERED: Final = 10_000


class TokenRules(Struct, frozen=True):
    """Whose tokens are good."""

    team_id: str
    key_id: str
    key_pem: bytes
    update_interval_s: float = 0.0
    """How long a connection must stay with one token; Apple's is 20 minutes. 0 switches the rule off."""


class ProviderTokens:
    """Checks the `authorization` of requests to either environment."""

    def __init__(self, rules: TokenRules, tally: Tally) -> None:
        self._rules = rules
        self._tally = tally
        key = serialization.load_pem_private_key(rules.key_pem, None)
        self._public_key: Any = key.public_key()
        self._issued: dict[bytes, float] = {}

    def check(self, header: bytes | None, state: dict[str, Any]) -> None:
        """Whether a token is good now; `state` is the connection's own.

        Raises:
            Refused: with Apple's reason.
        """
        if header is None:
            raise Refused(Reason.MISSING_PROVIDER_TOKEN)
        issued = self._issued.get(header)
        if issued is None:
            issued = self._verify(header)
        now = time.time()
        if now - issued > LIFETIME_S:
            raise Refused(Reason.EXPIRED_PROVIDER_TOKEN)
        if self._rules.update_interval_s:
            self._check_update(header, state, now)

    def _check_update(self, header: bytes, state: dict[str, Any], now: float) -> None:
        current, since = state.get("provider_token", (header, now))
        if current != header:
            if now - since < self._rules.update_interval_s:
                raise Refused(Reason.TOO_MANY_PROVIDER_TOKEN_UPDATES)
            since = now
        state["provider_token"] = (header, since)

    def _verify(self, header: bytes) -> float:
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(Reason.MISSING_PROVIDER_TOKEN)
        self._tally.provider_tokens_verified += 1
        invalid = Refused(Reason.INVALID_PROVIDER_TOKEN)
        try:
            if jwt.get_unverified_header(token).get("kid") != self._rules.key_id:
                raise invalid
            claims = jwt.decode(
                token,
                self._public_key,
                algorithms=["ES256"],
                options={"verify_aud": False, "verify_iat": False, "verify_exp": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError:
            raise invalid from None
        issued = claims.get("iat")
        if claims.get("iss") != self._rules.team_id or not isinstance(issued, int | float):
            raise invalid
        if issued > time.time() + _CLOCK_SKEW_S:
            raise invalid
        if len(self._issued) >= _MOST_REMEMBERED:
            self._issued.clear()
        self._issued[header] = issued
        return issued
