"""Verifies the assertion of a token request: a JWT that a service account has signed.

Source: RFC 7523; Google, "Using OAuth 2.0 for Server to Server Applications". PyJWT verifies the signature; the times
are compared here, because the emulator's clock is an argument and PyJWT always reads the system clock.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from tocsin.emulator.options import Clock

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GOOGLE_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""The audience that the google-auth library puts into every assertion, whatever `token_uri` the service account has."""
SCOPES: Final = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
_MAX_LIFETIME_S: Final = 3600
_CLOCK_SKEW_S: Final = 60
_NOT_SHORT_LIVED: Final = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
    " Check your iat and exp values in the JWT claim."
)


class ServiceAccount(Struct, frozen=True):
    """The members of the service account file that the emulator needs."""

    client_email: str
    private_key: str
    """PEM."""
    token_uri: str
    project_id: str


class GrantRefusal(Exception):  # noqa: N818 - the name says what the endpoint does, and is not an error of the emulator
    """The token endpoint refuses the request; the answer has `error` and, as its description, the message."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


class AssertionVerifier:
    """Verifies token requests for one service account."""

    def __init__(self, account: ServiceAccount, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        key = serialization.load_pem_private_key(account.private_key.encode(), None)
        self._public_key: Any = key.public_key()

    def verify(self, body: bytes) -> None:
        """Verify the body (a form) of one token request.

        Raises:
            GrantRefusal: with Google's `error` and description.
        """
        form = parse_qs(body.decode("latin-1"))
        if form.get("grant_type") != [GRANT_TYPE]:
            raise GrantRefusal("unsupported_grant_type", "Invalid grant_type: " + ", ".join(form.get("grant_type", [])))
        claims = self._signed_claims(form.get("assertion", [""])[0])
        _check_times(claims, self._clock())
        if claims["iss"] != self._account.client_email:
            raise GrantRefusal("invalid_grant", "Invalid grant: account not found")
        if claims["aud"] not in (self._account.token_uri, GOOGLE_AUDIENCE):
            raise GrantRefusal("invalid_grant", "Invalid JWT: Failed audience check.")
        if _number(claims["exp"]) - _number(claims["iat"]) > _MAX_LIFETIME_S:
            raise GrantRefusal("invalid_grant", _NOT_SHORT_LIVED)
        if not SCOPES & set(str(claims["scope"]).split()):
            raise GrantRefusal("invalid_scope", "Invalid OAuth scope or ID token audience provided.")

    def _signed_claims(self, assertion: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                assertion,
                self._public_key,
                algorithms=["RS256"],
                options={
                    "verify_aud": False,
                    "verify_iat": False,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "require": ["iss", "iat", "exp", "aud", "scope"],
                },
            )
        except jwt.MissingRequiredClaimError as error:
            raise GrantRefusal("invalid_grant", f"Invalid JWT: {error}") from None
        except jwt.InvalidTokenError:
            raise _invalid_signature() from None
        return claims


def _check_times(claims: dict[str, Any], now: float) -> None:
    """RFC 7523, 3: the assertion must be valid now; `now` is in Unix seconds."""
    for name in ("iat", "nbf"):
        if name in claims and int(_number(claims[name])) > now + _CLOCK_SKEW_S:
            raise GrantRefusal("invalid_grant", _NOT_SHORT_LIVED)
    if int(_number(claims["exp"])) <= now - _CLOCK_SKEW_S:
        raise GrantRefusal("invalid_grant", _NOT_SHORT_LIVED)


def _number(claim: Any) -> int | float:
    """A claim that is a time in Unix seconds; like PyJWT, a string of digits is allowed."""
    try:
        whole = int(claim)
    except (ValueError, TypeError, OverflowError):
        raise _invalid_signature() from None
    return claim if isinstance(claim, int | float) else whole


def _invalid_signature() -> GrantRefusal:
    return GrantRefusal("invalid_grant", "Invalid JWT Signature.")
