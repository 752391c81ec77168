"""Writes the credentials that clients of the emulator need into its directory: keys, certificates, a service account.

Files that exist are kept, so that clients can continue to use them when the emulator is started again.
"""

from __future__ import annotations

import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from tocsin.emulator.client_certificates import apple_extensions

TEAM_ID: Final = "39JSDKGJ38"
CERTIFICATE_TOPIC: Final = "de.cospace.app"
CERTIFICATE_TOPICS: Final = {
    CERTIFICATE_TOPIC: "app",
    f"{CERTIFICATE_TOPIC}.voip": "voip",
    f"{CERTIFICATE_TOPIC}.complication": "complication",
}
"""The topics of the push certificate, and the kind of each, as Apple writes them into a certificate."""
PROJECT_ID: Final = "tocsin-emulator"
_VALIDITY: Final = timedelta(days=825)
_CA_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tocsin emulator CA")])

_Key = ec.EllipticCurvePrivateKey


class Files(Struct, frozen=True):
    """The paths of the emulator's files."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The certificate of the CA that clients must trust (PEM)."""
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The CA's private key (PEM), with which a test can issue more certificates."""
        return self.directory / "ca-key.pem"

    @property
    def server(self) -> Path:
        """The servers' TLS certificate and its private key (PEM)."""
        return self.directory / "server.pem"

    @property
    def key_id_file(self) -> Path:
        """The file with the id of the APNs key."""
        return self.directory / "key_id"

    @property
    def key_id(self) -> str:
        """The id of the APNs key; read from `key_id_file`."""
        return self.key_id_file.read_text().strip()

    @property
    def apns_key(self) -> Path:
        """The private key for provider tokens, in the form that Apple offers for download (.p8)."""
        return self.directory / f"AuthKey_{self.key_id}.p8"

    @property
    def certificate(self) -> Path:
        """A push certificate with its private key (PEM)."""
        return self.directory / "apns-certificate.pem"

    @property
    def certificate_key(self) -> Path:
        """The private key of the push certificate alone (PEM)."""
        return self.directory / "apns-certificate-key.pem"

    @property
    def certificate_p12(self) -> Path:
        """The push certificate with its private key (PKCS #12, the password is empty)."""
        return self.directory / "apns-certificate.p12"

    @property
    def service_account(self) -> Path:
        """The service account file (JSON)."""
        return self.directory / "service-account.json"

    def service_account_of(self, project: str) -> Path:
        """The service account file of a project."""
        return self.service_account if project == PROJECT_ID else self.directory / f"service-account-{project}.json"

    @property
    def summary(self) -> Path:
        """`emulator.json`."""
        return self.directory / "emulator.json"


def write_credentials(directory: Path) -> Files:
    """Write the files that are missing, except the service account; returns the paths of all files.

    Raises:
        OSError: a file cannot be written or read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = Files(directory)
    if not files.key_id_file.exists():
        _write_private(files.key_id_file, secrets.token_hex(5).upper().encode())
    if not files.ca.exists() or not files.server.exists():
        _write_certificates(files)
    if not files.apns_key.exists():
        _write_private(files.apns_key, _pem(ec.generate_private_key(ec.SECP256R1())))
    return files


def write_service_account(files: Files, token_uri: str, project: str = PROJECT_ID) -> None:
    """Write a service account file in Google's format. An existing one is kept, except for its `token_uri`.

    Raises:
        OSError: the file cannot be written or read.
    """
    path = files.service_account_of(project)
    if path.exists():
        account = json.loads(path.read_text())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        account = {
            "type": "service_account",
            "project_id": project,
            "private_key_id": secrets.token_hex(20),
            "private_key": _pem(key).decode(),
            "client_email": f"firebase-adminsdk@{project}.iam.gserviceaccount.com",
            "client_id": str(secrets.randbelow(10**21)),
            "universe_domain": "googleapis.com",
        }
    account["token_uri"] = token_uri
    _write_private(path, json.dumps(account, indent=2).encode())


def _write_certificates(files: Files) -> None:
    """Create a CA, and issue with it the servers' TLS certificate and a push certificate."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = (
        _certificate(_CA_NAME, _CA_NAME, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_key_usage(), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    _write_private(files.ca_key, _pem(ca_key))
    files.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    _write_push_certificate(files, ca_key)
    # Last: if this file exists, all others do.
    _write_server_certificate(files, ca_key)


def _write_server_certificate(files: Files, ca_key: _Key) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")), x509.IPAddress(ip_address("::1"))]
    certificate = (
        _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), _CA_NAME, key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_private(files.server, certificate.public_bytes(Encoding.PEM) + _pem(key))


def _write_push_certificate(files: Files, ca_key: _Key) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # Apple writes the bundle id into the UID of the subject.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.USER_ID, CERTIFICATE_TOPIC),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Apple Push Services: {CERTIFICATE_TOPIC}"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, TEAM_ID),
        ]
    )
    builder = (
        _certificate(subject, _CA_NAME, key)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    for extension in apple_extensions(CERTIFICATE_TOPICS):
        builder = builder.add_extension(extension, critical=False)
    certificate = builder.sign(ca_key, hashes.SHA256())
    # One file with certificate and key, for tocsin and curl, and one with the key alone, for programs that need two.
    _write_private(files.certificate, certificate.public_bytes(Encoding.PEM) + _pem(key))
    _write_private(files.certificate_key, _pem(key))
    _write_private(
        files.certificate_p12,
        pkcs12.serialize_key_and_certificates(b"apns", key, certificate, None, _legacy_encryption()),
    )


def _legacy_encryption() -> KeySerializationEncryption:
    """For a PKCS #12 file as Apple's Keychain exports it: the only form that Go's `pkcs12` and Java before 8u301 read.

    The password is empty. `build` takes none such, as it protects nothing; here nothing is to be protected.
    """
    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(2048)
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(hashes.SHA1())
    encryption: Any = builder.build(b"not empty")
    encryption.password = b""
    return cast(KeySerializationEncryption, encryption)


def _certificate(subject: x509.Name, issuer: x509.Name, key: _Key) -> x509.CertificateBuilder:
    """What all certificates have in common; the system clock is read, as for every certificate that TLS checks."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _ca_key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read; it is replaced as a whole."""
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)
