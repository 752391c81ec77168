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

from tocsin.emulator.faults import Faults, scripted_headers
from tocsin.emulator.inbox import Inbox
from tocsin.http2.server import Exchange, Reply

GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GOOGLES_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""What google-auth puts into every assertion, whatever the service account's `token_uri`."""
SCOPES: Final = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
_MOST_LIFETIME_S: Final = 3600


class ServiceAccount(Struct, frozen=True):
    client_email: str
    private_key: str
    token_uri: str
    project_id: str


class _Wrong(Exception):
    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


class OAuthHandler:
    """Issues access tokens, and knows afterwards which of them are good."""

    def __init__(self, account: ServiceAccount, inbox: Inbox, faults: Faults, lifetime_s: int) -> None:
        self._account = account
        self._inbox = inbox
        self._faults = faults
        self._lifetime_s = lifetime_s
        key = serialization.load_pem_private_key(account.private_key.encode(), None)
        self._public_key: Any = key.public_key()
        self._issued: dict[bytes, tuple[float, int]] = {}

    def is_good(self, authorization: bytes) -> bool:
        """Whether a bearer token was issued here, is not expired, and was not declared so by a fault."""
        issued = self._issued.get(authorization)
        return issued is not None and issued[0] > time.time() and issued[1] == self._faults.tokens_expired

    def __call__(self, exchange: Exchange) -> Reply | None:
        if self._faults.active:
            rule = self._faults.find("oauth", exchange=exchange)
            if rule is not None:
                scripted = None
                if rule.status is not None:
                    body = rule.body or msgspec.json.encode({"error": rule.reason or "internal_failure"}).decode()
                    scripted = Reply(rule.status, scripted_headers(rule), body.encode())
                return self._faults.act(rule, exchange, self._answer(exchange), scripted)
            return self._faults.delayed(exchange, self._answer(exchange))
        return self._answer(exchange)

    def _answer(self, exchange: Exchange) -> Reply:
        fields = dict(exchange.headers)
        try:
            if fields.get(b":method") != b"POST":
                return Reply(405, [(b"allow", b"POST")])
            self._verify(exchange.body)
        except _Wrong as wrong:
            self._inbox.count("oauth", None, 400, wrong.error)
            return _json(400, {"error": wrong.error, "error_description": str(wrong)})
        token = "ya29." + secrets.token_urlsafe(96)
        self._issued[b"Bearer " + token.encode()] = (time.time() + self._lifetime_s, self._faults.tokens_expired)
        self._inbox.tokens_issued += 1
        self._inbox.count("oauth", None, 200, "")
        return _json(200, {"access_token": token, "expires_in": self._lifetime_s - 1, "token_type": "Bearer"})

    def _verify(self, body: bytes) -> None:
        form = parse_qs(body.decode("latin-1"))
        if form.get("grant_type") != [GRANT]:
            raise _Wrong("unsupported_grant_type", "Invalid grant_type: " + ", ".join(form.get("grant_type", [])))
        try:
            claims = jwt.decode(
                form.get("assertion", [""])[0],
                self._public_key,
                algorithms=["RS256"],
                options={"verify_aud": False, "require": ["iss", "iat", "exp", "aud", "scope"]},
                leeway=60,
            )
        except jwt.ExpiredSignatureError:
            raise _Wrong("invalid_grant", "Invalid JWT: Token must be a short-lived token") from None
        except jwt.InvalidTokenError as error:
            raise _Wrong("invalid_grant", f"Invalid JWT Signature: {error}") from None
        if claims["iss"] != self._account.client_email:
            raise _Wrong("invalid_grant", "Invalid grant: account not found")
        if claims["aud"] not in (self._account.token_uri, GOOGLES_AUDIENCE):
            raise _Wrong("invalid_grant", "Invalid JWT: Failed audience check")
        if claims["exp"] - claims["iat"] > _MOST_LIFETIME_S:
            raise _Wrong("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes)")
        if not SCOPES & set(str(claims["scope"]).split()):
            raise _Wrong("invalid_scope", "Invalid OAuth scope or ID token audience provided.")


def _json(status: int, value: dict[str, Any]) -> Reply:
    return Reply(status, [(b"content-type", b"application/json; charset=utf-8")], msgspec.json.encode(value))
