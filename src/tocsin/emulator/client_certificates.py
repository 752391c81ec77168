"""Apple's push certificates, with which a client may authenticate instead of a provider token.

The UID of the subject is the bundle id. Certificate extensions of Apple hold the rest: 1.2.840.113635.100.6.3.1 and .2
mark certificates for the sandbox and for production, .6 lists the topics (a DER sequence of topics and their kinds).
Source: Apple, "Establishing a certificate-based connection to APNs".
"""

from __future__ import annotations

import re
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier
from msgspec import Struct

from tocsin.emulator.apns_reasons import ApnsRefusal, Reason

FOR_SANDBOX: Final = ObjectIdentifier("1.2.840.113635.100.6.3.1")
FOR_PRODUCTION: Final = ObjectIdentifier("1.2.840.113635.100.6.3.2")
TOPICS: Final = ObjectIdentifier("1.2.840.113635.100.6.3.6")
_DER_NULL: Final = b"\x05\x00"
_UTF8_STRING: Final = 0x0C
_SEQUENCE: Final = 0x30
_STATE_KEY: Final = "certificate"
_TOPIC: Final = re.compile(rb"[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+")


class PushCertificate(Struct, frozen=True):
    """What a push certificate permits."""

    topics: frozenset[bytes]
    environments: frozenset[str]
    """`sandbox`, `production`, or both."""

    @property
    def only_topic(self) -> bytes | None:
        """The topic of a request without `apns-topic`; None if the certificate has several topics."""
        return next(iter(self.topics)) if len(self.topics) == 1 else None


def read_certificate(der: bytes) -> PushCertificate:
    """The topics and environments of a certificate in DER form.

    Raises:
        ApnsRefusal: BadCertificate, if it is not a push certificate.
    """
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    if not names:
        raise ApnsRefusal(Reason.BAD_CERTIFICATE)
    bundle_id = str(names[0].value).encode()
    extensions = {extension.oid: extension.value for extension in certificate.extensions}
    environments = {
        environment
        for oid, environment in ((FOR_SANDBOX, "sandbox"), (FOR_PRODUCTION, "production"))
        if oid in extensions
    }
    extension = extensions.get(TOPICS)
    topics = _strings(extension.value) if isinstance(extension, x509.UnrecognizedExtension) else []
    return PushCertificate(
        frozenset({bundle_id, *(topic for topic in topics if _TOPIC.fullmatch(topic))}),
        frozenset(environments or {"sandbox", "production"}),
    )


def apple_extensions(topics: dict[str, str]) -> list[x509.UnrecognizedExtension]:
    """Apple's certificate extensions for both environments and for these topics; the values are the topics' kinds."""
    pairs = b"".join(
        _der(_UTF8_STRING, topic.encode()) + _der(_SEQUENCE, _der(_UTF8_STRING, kind.encode()))
        for topic, kind in topics.items()
    )
    return [
        x509.UnrecognizedExtension(FOR_SANDBOX, _DER_NULL),
        x509.UnrecognizedExtension(FOR_PRODUCTION, _DER_NULL),
        x509.UnrecognizedExtension(TOPICS, _der(_SEQUENCE, pairs)),
    ]


def certificate_of(connection: Any) -> PushCertificate | None:
    """The client certificate of a connection, which is parsed once; None if the client has presented none.

    Raises:
        ApnsRefusal: BadCertificate, if it is not a push certificate.
    """
    if connection.peer_certificate is None:
        return None
    certificate = connection.state.get(_STATE_KEY)
    if certificate is None:
        certificate = connection.state[_STATE_KEY] = read_certificate(connection.peer_certificate)
    assert isinstance(certificate, PushCertificate)
    return certificate


def _der(tag: int, content: bytes) -> bytes:
    """Encode one DER value: tag, length, content."""
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(octets)]) + octets + content


def _strings(der: bytes) -> list[bytes]:
    """All UTF8String values in nested DER sequences; other values are skipped."""
    strings: list[bytes] = []
    position = 0
    while position + 2 <= len(der):
        tag, size = der[position], der[position + 1]
        position += 2
        if size & 128:
            octets = size & 127
            size = int.from_bytes(der[position : position + octets], "big")
            position += octets
        content = der[position : position + size]
        position += size
        if tag == _UTF8_STRING:
            strings.append(content)
        elif tag == _SEQUENCE:
            strings += _strings(content)
    return strings
