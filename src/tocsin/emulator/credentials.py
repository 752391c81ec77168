"""Everything a client needs to talk to the emulator, written into its directory: nothing here is secret for long.

A directory that has it already keeps it, so that a restarted emulator knows its clients.
"""

from __future__ import annotations

import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
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
"""As Apple puts them into a certificate, each with its kind."""
PROJECT_ID: Final = "tocsin-emulator"
_VALID: Final = timedelta(days=825)

_Key = ec.EllipticCurvePrivateKey


class Files(Struct, frozen=True):
    """Where everything lies."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """Kept, so that a test can make certificates of its own."""
        return self.directory / "ca-key.pem"

    @property
    def server(self) -> Path:
        return self.directory / "server.pem"

    @property
    def key_id_file(self) -> Path:
        return self.directory / "key_id"

    @property
    def key_id(self) -> str:
        return self.key_id_file.read_text().strip()

    @property
    def apns_key(self) -> Path:
        return self.directory / f"AuthKey_{self.key_id}.p8"

    @property
    def certificate(self) -> Path:
        return self.directory / "apns-certificate.pem"

    @property
    def certificate_key(self) -> Path:
        return self.directory / "apns-certificate-key.pem"

    @property
    def certificate_p12(self) -> Path:
        return self.directory / "apns-certificate.p12"

    @property
    def service_account(self) -> Path:
        return self.directory / "service-account.json"

    @property
    def summary(self) -> Path:
        return self.directory / "emulator.json"


def write_credentials(directory: Path) -> Files:
    """Make what is missing; returns where it is."""
    directory.mkdir(parents=True, exist_ok=True)
    files = Files(directory)
    if not files.key_id_file.exists():
        _write_private(files.key_id_file, secrets.token_hex(5).upper().encode())
    if not files.ca.exists() or not files.server.exists():
        _write_certificates(files)
    if not files.apns_key.exists():
        _write_private(files.apns_key, _pem(ec.generate_private_key(ec.SECP256R1())))
    return files


def write_service_account(files: Files, token_uri: str) -> None:
    """The JSON as Google hands it out; the key stays, the `token_uri` is today's."""
    if files.service_account.exists():
        account = json.loads(files.service_account.read_text())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        account = {
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": secrets.token_hex(20),
            "private_key": _pem(key).decode(),
            "client_email": f"firebase-adminsdk@{PROJECT_ID}.iam.gserviceaccount.com",
            "client_id": str(secrets.randbelow(10**21)),
            "universe_domain": "googleapis.com",
        }
    account["token_uri"] = token_uri
    _write_private(files.service_account, json.dumps(account, indent=2).encode())


def _write_certificates(files: Files) -> None:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tocsin emulator CA")])
    ca = (
        _certificate(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = (
        _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), ca_name, server_key)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("localhost"),
                    x509.IPAddress(ip_address("127.0.0.1")),
                    x509.IPAddress(ip_address("::1")),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    client_key = ec.generate_private_key(ec.SECP256R1())
    # Apple names the bundle id in the subject's UID.
    client_name = x509.Name(
        [
            x509.NameAttribute(NameOID.USER_ID, CERTIFICATE_TOPIC),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Apple Push Services: {CERTIFICATE_TOPIC}"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, TEAM_ID),
        ]
    )
    unsigned = (
        _certificate(client_name, ca_name, client_key)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    for extension in apple_extensions(CERTIFICATE_TOPICS):
        unsigned = unsigned.add_extension(extension, critical=False)
    client = unsigned.sign(ca_key, hashes.SHA256())
    _write_private(files.ca_key, _pem(ca_key))
    files.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    _write_private(files.server, server.public_bytes(Encoding.PEM) + _pem(server_key))
    # One file with both, as tocsin and curl like it, and the key alone for those who want two.
    _write_private(files.certificate, client.public_bytes(Encoding.PEM) + _pem(client_key))
    _write_private(files.certificate_key, _pem(client_key))
    _write_private(
        files.certificate_p12,
        pkcs12.serialize_key_and_certificates(b"apns", client_key, client, None, NoEncryption()),
    )


def _certificate(subject: x509.Name, issuer: x509.Name, key: _Key) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    """Readable by its user alone, and never half written."""
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    temporary.replace(path)
