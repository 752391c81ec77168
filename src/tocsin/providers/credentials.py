"""The credentials that reach Apple and Google: read, checked, minted, cached, renewed.

Apple, "Establishing a token-based connection to APNs": a provider token is valid for an hour and may be renewed at
most every 20 minutes. Google, "Authorize send requests": an access token lives about an hour.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import jwt
import requests
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from google.auth.exceptions import GoogleAuthError, RefreshError
from google.auth.transport.requests import Request as GoogleRequest
from google.oauth2 import service_account

from tocsin.http2.dial import client_tls

log = structlog.get_logger(__name__)

PROVIDER_TOKEN_RENEWED_AT_S: Final = 50 * 60
_CLOCK_STEP_S: Final = 300.0
PROVIDER_TOKEN_LEAST_AGE_S: Final = 20 * 60
FCM_SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_ACCESS_TOKEN_RENEWED_AHEAD_S: Final = 300
_ACCESS_TOKEN_RETRY_S: Final = (1.0, 60.0)
_TOKEN_REQUEST_TIMEOUT_S: Final = 10


class CredentialError(ValueError):
    """A key, certificate or service account that cannot be used; the message says which rule it breaks."""


# -- Apple's keys and certificates -------------------------------------------------------------------------------------


def read_key(content: bytes) -> str:
    """An APNs authentication key (.p8), checked.

    Raises:
        CredentialError: it is not a P-256 private key in PEM.
    """
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CredentialError("not a P-256 private key (PEM, .p8 as downloaded from Apple)")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def read_certificate(content: bytes, password: str | None = None) -> str:
    """An APNs certificate with its private key, from PEM or PKCS#12, as one PEM text.

    Raises:
        CredentialError: unreadable, without its private key, or expired.
    """
    secret = password.encode() if password else None
    if b"-----BEGIN" in content:
        try:
            certificates = x509.load_pem_x509_certificates(content)
            key = serialization.load_pem_private_key(content, secret)
        except (ValueError, TypeError) as error:
            raise CredentialError(f"not a certificate with its private key in PEM: {error}") from None
    else:
        try:
            bundle = pkcs12.load_pkcs12(content, secret)
        except ValueError as error:
            raise CredentialError(f"not a PKCS#12 file, or the password is wrong: {error}") from None
        if bundle.key is None or bundle.cert is None:
            raise CredentialError("the PKCS#12 file has no certificate with its private key")
        key = bundle.key
        certificates = [bundle.cert.certificate, *(more.certificate for more in bundle.additional_certs)]
    own = certificates[0]
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    if own.public_key().public_bytes(Encoding.DER, spki) != key.public_key().public_bytes(Encoding.DER, spki):
        raise CredentialError("the private key does not belong to the certificate")
    if own.not_valid_after_utc <= datetime.now(UTC):
        raise CredentialError(f"the certificate expired on {own.not_valid_after_utc:%Y-%m-%d}")
    chain = "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)
    pem = chain + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    certificate_tls(pem, None)
    return pem


def certificate_expiry(pem: str) -> datetime:
    """When the first certificate in `pem` ends."""
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc


def fingerprint(pem: str) -> str:
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()


def certificate_tls(pem: str, ca_file: Path | None) -> ssl.SSLContext:
    """TLS with a client certificate. The ssl module reads it from a file only, which lives as long as the call.

    Raises:
        CredentialError: the TLS library does not take it (a key that it calls too small, say).
    """
    descriptor, name = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(pem)
        return client_tls(ca_file, Path(name))
    except OSError as error:  # ssl.SSLError is one
        raise CredentialError(f"the certificate cannot be used: {error}") from None
    finally:
        os.unlink(name)


class ProviderToken:
    """The JWT of one (key, team), shared by every connection that uses the key."""

    def __init__(self, key_pem: str, key_id: str, team_id: str, clock: Callable[[], float] = time.time) -> None:
        self._key = key_pem
        self._key_id = key_id
        self._team_id = team_id
        self._clock = clock
        self._header: bytes | None = None
        self._minted = 0.0
        self._called_expired = False

    @property
    def age_s(self) -> float:
        return self._clock() - self._minted

    def header(self) -> bytes:
        """The `authorization` header's value; the same bytes until it is time for new ones."""
        if self._header is None or not -_CLOCK_STEP_S <= self.age_s < PROVIDER_TOKEN_RENEWED_AT_S:
            self._called_expired = False
            self._mint()
        assert self._header is not None
        return self._header

    def expired(self, used: bytes | None) -> bool:
        """Apple calls the token expired: renew it, whatever its age, but only once until it is renewed in its turn.

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


# -- Google's access tokens --------------------------------------------------------------------------------------------


def read_service_account(content: bytes) -> str:
    """A service account's JSON as Google hands it out; returns its project id.

    Raises:
        CredentialError: it is not a service account, or its key is not usable.
    """
    try:
        info = json.loads(content)
        service_account.Credentials.from_service_account_info(info, scopes=[FCM_SCOPE])  # type: ignore[no-untyped-call]
        project = info["project_id"]
    except (ValueError, TypeError, KeyError, GoogleAuthError) as error:
        raise CredentialError(f"not a service account (the JSON file as downloaded from Google): {error}") from None
    if not isinstance(project, str) or not project:
        raise CredentialError("the service account names no project_id")
    return project


class AccessToken:
    """The OAuth access token of one service account: renewed in the background, the old one used until then."""

    def __init__(
        self,
        service_account_json: str,
        ca_file: Path | None = None,
        proxy: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._info = json.loads(service_account_json)
        self._ca_file = ca_file
        self._proxy = proxy
        self._clock = clock
        self._header: bytes | None = None
        self._expires = 0.0
        self._called_invalid = False
        self._invalid: bytes | None = None
        """The header that Google has called invalid: it is being replaced."""
        self._renewing: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._failures = 0
        self.error: str | None = None
        """Why the last renewal failed."""
        self.rejected = False
        """Whether Google itself refused the service account, rather than the link."""

    def header(self) -> bytes | None:
        """The `authorization` header's value, or None while there is none: then await `ready`."""
        now = self._clock()
        if now > self._expires - _ACCESS_TOKEN_RENEWED_AHEAD_S:
            if self._expires:
                self._called_invalid = False
            self._renew_soon()
        return self._header if now < self._expires else None

    async def ready(self) -> bytes | None:
        """Wait for the renewal that is going on, if any."""
        header = self.header()
        if header is None and self._renewing is not None:
            await asyncio.shield(self._renewing)
            header = self._header if self._clock() < self._expires else None
        return header

    def expired(self, used: bytes | None) -> bool:
        """Google calls the token invalid: renew it, but only once until it is renewed in its turn.

        Returns whether trying again makes sense: False when the new one was called invalid too.
        """
        if used is not None and (used != self._header or used == self._invalid):
            return True
        if self._called_invalid:
            return False
        self._called_invalid = True
        self._invalid = used
        self._expires = 0.0
        self._renew_soon()
        return True

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    def _renew_soon(self) -> None:
        if self._renewing is None and self._clock() >= self._not_before:
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        try:
            token, expires = await asyncio.to_thread(self._fetch)
        except Exception as error:  # google-auth lets through what a strange answer makes its own code raise
            self.error = f"{type(error).__name__}: {error}"
            self.rejected = isinstance(error, RefreshError) and not error.retryable
            self._failures += 1
            first, cap = _ACCESS_TOKEN_RETRY_S
            self._not_before = self._clock() + min(cap, first * 2**self._failures)
            log.error("no access token", account=self._info.get("client_email"), error=self.error)
        else:
            self._header, self._expires = b"Bearer " + token.encode(), expires
            self.error, self.rejected, self._failures = None, False, 0
        finally:
            self._renewing = None

    def _fetch(self) -> tuple[str, float]:
        """In a thread: google-auth knows the grant, and blocks."""
        credentials = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
            self._info, scopes=[FCM_SCOPE]
        )
        with requests.Session() as session:
            if self._ca_file is not None:
                # The environment's REQUESTS_CA_BUNDLE would win over `verify`.
                session.trust_env = False
                session.verify = str(self._ca_file)
            if self._proxy is not None:
                session.proxies = {"https": self._proxy}
            request = GoogleRequest(session)

            def bounded(*args: object, **kwargs: object) -> object:
                kwargs["timeout"] = _TOKEN_REQUEST_TIMEOUT_S
                return request(*args, **kwargs)

            credentials.refresh(bounded)
        expiry = credentials.expiry.replace(tzinfo=UTC).timestamp()
        return credentials.token, expiry
