"""For which app a push certificate was issued."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from tocsin.providers.apns.address import bundle_id

_USER_ID: Final = NameOID.USER_ID


def belongs_to(pem: str, application_id: str) -> bool:
    """Whether the first certificate in `pem` is for this app's topics.

    Apple writes the bundle id into the subject's user id (UID); a VoIP certificate has a suffix there. A certificate
    without a UID was not issued by Apple, and does not say for which app it is.
    """
    subject = x509.load_pem_x509_certificate(pem.encode()).subject
    topics = [str(attribute.value) for attribute in subject.get_attributes_for_oid(_USER_ID)]
    bundle = bundle_id(application_id)
    return not topics or any(topic == bundle or topic.startswith(bundle + ".") for topic in topics)
