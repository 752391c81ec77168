"""What reaches Apple for one application: a key with its id, or a certificate. Read, checked, stored, described.

Source: Apple, "Establishing a token-based connection to APNs", "Establishing a certificate-based connection to APNs".
"""

from __future__ import annotations

import os
import ssl
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from msgspec import Struct

from tocsin.domain.credentials import Credential
from tocsin.http2.dial import client_tls
from tocsin.providers.apns.address import NAME, team_id
from tocsin.providers.base import CredentialError


class ApnsCredential(Struct, frozen=True, omit_defaults=True):
    """A key (PEM) with its id, or a certificate: chain and private key, in PEM."""

    key_pem: str | None = None
    key_id: str | None = None
    certificate_pem: str | None = None

    def stored(self, application_id: str, changed_ms: int) -> Credential:
        return Credential(NAME, application_id, msgspec.json.encode(self), changed_ms=changed_ms)

    @property
    def kind(self) -> Literal["key", "certificate", "none"]:
        """`key`, `certificate`, or `none`."""
        if self.certificate_pem is not None:
            return "certificate"
        return "none" if self.key_pem is None else "key"

    def identity(self, application_id: str) -> str:
        """What must not share a connection: Apple binds one to a team's key, or to a certificate."""
        if self.certificate_pem is not None:
            return f"certificate:{hash(self.certificate_pem)}"
        return f"key:{team_id(application_id)}:{self.key_id}:{hash(self.key_pem)}"

    def expires_s(self) -> float | None:
        """When the certificate ends, Unix seconds; None for a key, which does not."""
        return None if self.certificate_pem is None else certificate_expiry(self.certificate_pem).timestamp()


def read_stored(credential: Credential) -> ApnsCredential:
    """The credential that was stored."""
    return msgspec.json.decode(credential.content, type=ApnsCredential)


def read_key(content: bytes) -> str:
    """An APNs authentication key (.p8), checked; as PEM.

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


def read_certificate(content: bytes, password: str | None = None, *, now_s: float) -> str:
    """An APNs certificate with its private key, from PEM or PKCS#12, as one PEM text. `now_s`: Unix seconds.

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
    if own.not_valid_after_utc.timestamp() <= now_s:
        raise CredentialError(f"the certificate expired on {own.not_valid_after_utc:%Y-%m-%d}")
    chain = "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)
    pem = chain + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    certificate_tls(pem, None)
    return pem


def certificate_expiry(pem: str) -> datetime:
    """When the first certificate in `pem` ends."""
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc


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
