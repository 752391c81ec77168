"""Apple's push certificates, as clients present them: whom they may push to.

The subject's UID is the bundle id. Apple's extensions say the rest: 1.2.840.113635.100.6.3.1 and .2 mark certificates
for the sandbox and for production, .6 lists the topics (a DER sequence of names and their kinds).
"""

from __future__ import annotations

import re
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier
from msgspec import Struct

from tocsin.emulator.apns_reasons import Reason, Refused

FOR_SANDBOX: Final = ObjectIdentifier("1.2.840.113635.100.6.3.1")
FOR_PRODUCTION: Final = ObjectIdentifier("1.2.840.113635.100.6.3.2")
TOPICS: Final = ObjectIdentifier("1.2.840.113635.100.6.3.6")
_DER_NULL: Final = b"\x05\x00"
_UTF8_STRING: Final = 0x0C
_SEQUENCE: Final = 0x30
_TOPIC: Final = re.compile(rb"[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+")


class PushCertificate(Struct, frozen=True):
    topics: frozenset[bytes]
    environments: frozenset[str]

    @property
    def only_topic(self) -> bytes | None:
        """What a request without `apns-topic` means."""
        return next(iter(self.topics)) if len(self.topics) == 1 else None


def read_certificate(der: bytes) -> PushCertificate:
    """
    Raises:
        Refused: BadCertificate, where it is not one for push.
    """
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    if not names:
        raise Refused(Reason.BAD_CERTIFICATE)
    own = str(names[0].value).encode()
    found = {extension.oid: extension.value for extension in certificate.extensions}
    environments = {
        environment for oid, environment in ((FOR_SANDBOX, "sandbox"), (FOR_PRODUCTION, "production")) if oid in found
    }
    listed = found.get(TOPICS)
    topics = _strings(listed.value) if isinstance(listed, x509.UnrecognizedExtension) else []
    return PushCertificate(
        frozenset({own, *(topic for topic in topics if _TOPIC.fullmatch(topic))}),
        frozenset(environments or {"sandbox", "production"}),
    )


def apple_extensions(topics: dict[str, str]) -> list[x509.UnrecognizedExtension]:
    """The extensions of a certificate for both environments and these topics, each with its kind."""
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
    """The certificate of a connection's client, read once. None where it has shown none."""
    if connection.peer_certificate is None:
        return None
    known = connection.state.get("certificate")
    if known is None:
        known = connection.state["certificate"] = read_certificate(connection.peer_certificate)
    assert isinstance(known, PushCertificate)
    return known


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(octets)]) + octets + content


def _strings(der: bytes) -> list[bytes]:
    """Every UTF8String within nested sequences; the rest is passed over."""
    found: list[bytes] = []
    at = 0
    while at + 2 <= len(der):
        tag, size = der[at], der[at + 1]
        at += 2
        if size & 128:
            octets = size & 127
            size = int.from_bytes(der[at : at + octets], "big")
            at += octets
        content = der[at : at + size]
        at += size
        if tag == _UTF8_STRING:
            found.append(content)
        elif tag == _SEQUENCE:
            found += _strings(content)
    return found
