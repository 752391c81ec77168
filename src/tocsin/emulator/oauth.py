"""Google's token endpoint: a service account's signed assertion in, an access token out.

Source: RFC 7523; Google, "Using OAuth 2.0 for Server to Server Applications".
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final
from urllib.parse import parse_qs

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from tocsin.emulator.acting import Faults, Subject
from tocsin.emulator.faults import Rule
from tocsin.emulator.tally import Tally
from tocsin.http2.server import Exchange, Reply

GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GOOGLES_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""What google-auth puts into every assertion, whatever the service account's `token_uri`."""
SCOPES: Final = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
PATH: Final = "/token"
_MOST_LIFETIME_S: Final = 3600
_CLOCK_SKEW_S: Final = 60
_SHORT_LIVED: Final = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
    " Check your iat and exp values in the JWT claim."
)


class ServiceAccount(Struct, frozen=True):
    """What the emulator needs to know of the file that it hands out."""

    client_email: str
    private_key: str
    token_uri: str
    project_id: str


class _Issued(Struct, frozen=True):
    """An access token's end (Unix seconds), and the generation of `Faults` that it belongs to."""

    until: float
    generation: int


class _Denied(Exception):  # noqa: N818 - it is an answer, not an error
    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


class OAuthHandler:
    """Issues access tokens, and knows afterwards which of them are good."""

    def __init__(self, account: ServiceAccount, tally: Tally, faults: Faults, lifetime_s: int) -> None:
        self._account = account
        self._tally = tally
        self._faults = faults
        self._lifetime_s = lifetime_s
        key = serialization.load_pem_private_key(account.private_key.encode(), None)
        self._public_key: Any = key.public_key()
        self._issued: dict[bytes, _Issued] = {}

    def is_good(self, authorization: bytes) -> bool:
        """Whether a bearer token was issued here, is not expired, and was not declared so by a fault."""
        issued = self._issued.get(authorization)
        if issued is None:
            if authorization[:7].lower() != b"bearer ":
                return False
            issued = self._issued.get(b"Bearer " + authorization[7:].strip())
            if issued is None:
                return False
        return issued.until > time.time() and issued.generation == self._faults.token_generation

    def __call__(self, exchange: Exchange) -> Reply | None:
        fields = dict(exchange.headers)
        if fields.get(b":path", b"").partition(b"?")[0] != PATH.encode():
            return Reply(404)
        if fields.get(b":method") != b"POST":
            return Reply(405, ((b"allow", b"POST"),))
        rule = None
        if self._faults.active:
            rule = self._faults.find(Subject("oauth", project=self._account.project_id), exchange.connection)
        if rule is not None and rule.scripted:
            reply, reason = _scripted(rule), rule.reason
        else:
            reply, reason = self._answer(exchange.body)
        status, reason = (0, rule.silent) if rule is not None and rule.silent else (reply.status, reason)
        self._tally.count("oauth", None, status, reason)
        if rule is not None:
            return self._faults.act(rule, exchange, reply)
        return self._faults.delayed(exchange, reply) if self._faults.active else reply

    def _answer(self, body: bytes) -> tuple[Reply, str]:
        """The answer, and its `error`."""
        try:
            self._verify(body)
        except _Denied as denied:
            return _json(400, {"error": denied.error, "error_description": str(denied)}), denied.error
        now = time.time()
        self._issued = {token: issued for token, issued in self._issued.items() if issued.until > now}
        token = "ya29." + secrets.token_urlsafe(96)
        self._issued[b"Bearer " + token.encode()] = _Issued(now + self._lifetime_s, self._faults.token_generation)
        self._tally.access_tokens_issued += 1
        return _json(200, {"access_token": token, "expires_in": self._lifetime_s - 1, "token_type": "Bearer"}), ""

    def _verify(self, body: bytes) -> None:
        form = parse_qs(body.decode("latin-1"))
        if form.get("grant_type") != [GRANT]:
            raise _Denied("unsupported_grant_type", "Invalid grant_type: " + ", ".join(form.get("grant_type", [])))
        try:
            claims = jwt.decode(
                form.get("assertion", [""])[0],
                self._public_key,
                algorithms=["RS256"],
                options={"verify_aud": False, "require": ["iss", "iat", "exp", "aud", "scope"]},
                leeway=_CLOCK_SKEW_S,
            )
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
            raise _Denied("invalid_grant", _SHORT_LIVED) from None
        except jwt.MissingRequiredClaimError as error:
            raise _Denied("invalid_grant", f"Invalid JWT: {error}") from None
        except jwt.InvalidTokenError:
            raise _Denied("invalid_grant", "Invalid JWT Signature.") from None
        if claims["iss"] != self._account.client_email:
            raise _Denied("invalid_grant", "Invalid grant: account not found")
        if claims["aud"] not in (self._account.token_uri, GOOGLES_AUDIENCE):
            raise _Denied("invalid_grant", "Invalid JWT: Failed audience check.")
        if claims["exp"] - claims["iat"] > _MOST_LIFETIME_S:
            raise _Denied("invalid_grant", _SHORT_LIVED)
        if not SCOPES & set(str(claims["scope"]).split()):
            raise _Denied("invalid_scope", "Invalid OAuth scope or ID token audience provided.")


def _scripted(rule: Rule) -> Reply:
    status = rule.status or 500
    error = {"error": rule.reason or "internal_failure"}
    return _json(status, error | ({"error_description": rule.message} if rule.message else {}))


def _json(status: int, value: dict[str, Any]) -> Reply:
    return Reply(status, ((b"content-type", b"application/json; charset=utf-8"),), msgspec.json.encode(value))
