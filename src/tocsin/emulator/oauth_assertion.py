"""Verifies the assertion of a token request: a JWT that a service account has signed.

Source: RFC 7523; Google, "Using OAuth 2.0 for Server to Server Applications". PyJWT verifies the signature; the times
are compared here, because the emulator's clock is an argument and PyJWT always reads the system clock.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Verifies token requests for some service accounts."""

    def __init__(self, accounts: Sequence[ServiceAccount], clock: Clock) -> None:
        """`accounts`: at least one; the first one's key is used where nobody knows who asks."""
        self._first = accounts[0]
        self._accounts = {account.client_email: account for account in accounts}
        self._clock = clock
        self._public_keys: dict[str, Any] = {
            email: serialization.load_pem_private_key(account.private_key.encode(), None).public_key()
            for email, account in self._accounts.items()
        }

    def asked_by(self, body: bytes) -> ServiceAccount:
        """Whose token request this is, as far as it says; nothing is verified."""
        return self._said(_assertion(parse_qs(body.decode("latin-1"))))

    def verify(self, body: bytes) -> ServiceAccount:
        """Verify the body (a form) of one token request; returns whose it is.

        Raises:
            GrantRefusal: with Google's `error` and description.
        """
        form = parse_qs(body.decode("latin-1"))
        if form.get("grant_type") != [GRANT_TYPE]:
            raise GrantRefusal("unsupported_grant_type", "Invalid grant_type: " + ", ".join(form.get("grant_type", [])))
        assertion = _assertion(form)
        account = self._said(assertion)
        claims = _signed_claims(assertion, self._public_keys[account.client_email])
        _check_times(claims, self._clock())
        if claims["iss"] != account.client_email:
            raise GrantRefusal("invalid_grant", "Invalid grant: account not found")
        if claims["aud"] not in (account.token_uri, GOOGLE_AUDIENCE):
            raise GrantRefusal("invalid_grant", "Invalid JWT: Failed audience check.")
        if _number(claims["exp"]) - _number(claims["iat"]) > _MAX_LIFETIME_S:
            raise GrantRefusal("invalid_grant", _NOT_SHORT_LIVED)
        if not SCOPES & set(str(claims["scope"]).split()):
            raise GrantRefusal("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return account

    def _said(self, assertion: str) -> ServiceAccount:
        try:
            claims = jwt.decode(assertion, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            return self._first
        issuer = claims.get("iss")
        return self._accounts.get(issuer, self._first) if isinstance(issuer, str) else self._first


def _assertion(form: dict[str, list[str]]) -> str:
    return form.get("assertion", [""])[0]


def _signed_claims(assertion: str, public_key: Any) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            assertion,
            public_key,
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
