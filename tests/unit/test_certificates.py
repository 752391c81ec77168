"""Certificates are tried when they are added, not when the first push needs them."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tocsin.providers.apns.credentials import certificate_tls, read_certificate
from tocsin.providers.base import CredentialError


def pem(bits: int) -> bytes:
    key = rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Apple Push Services: de.cospace.app")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=300))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_a_certificate_that_tls_does_not_take_is_refused_when_it_is_added() -> None:
    assert read_certificate(pem(2048), now_s=time.time()).startswith("-----BEGIN CERTIFICATE-----")
    if ssl.create_default_context().security_level < 2:
        pytest.skip(reason="this system's TLS library takes keys of 1024 bits")
    with pytest.raises(CredentialError, match=r"the certificate cannot be used: .*KEY_TOO_SMALL"):
        read_certificate(pem(1024), now_s=time.time())


def test_a_certificate_has_expired_by_the_clock_of_whoever_reads_it() -> None:
    content, in_a_year_s = pem(2048), time.time() + 365 * 24 * 3600
    with pytest.raises(CredentialError, match="the certificate expired on"):
        read_certificate(content, now_s=in_a_year_s)
    assert read_certificate(content, now_s=time.time())


def test_what_cannot_be_loaded_is_a_fault_of_the_credential_and_of_nothing_else() -> None:
    with pytest.raises(CredentialError, match="the certificate cannot be used"):
        certificate_tls("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n", None)
