"""How a backend tests that its events ring: with a real tocsin, and an Apple and a Google on this machine.

The fixture `tocsin` comes with the client: pip install tocsin-client[testing]
"""

from __future__ import annotations

from uuid import UUID, uuid4

from tocsin_client import Client, FaxNew
from tocsin_client.testing import LocalTocsin


class FaxBackend:
    """What is tested: a part of the platform that hands in events."""

    def __init__(self, url: str, key: str) -> None:
        self._client = Client(url, key)

    def receive_fax(self, owner: UUID, pages: int) -> str:
        return self._client.send(FaxNew(owner=owner, fax=uuid4(), phone="+492215587412", page_count=pages))


def test_a_new_fax_rings_every_phone_of_its_user(tocsin: LocalTocsin) -> None:
    anna = tocsin.add_user()
    iphone, android = anna.add_iphone(), anna.add_android()
    backend = FaxBackend(tocsin.url, tocsin.key)

    backend.receive_fax(anna.id, pages=2)

    (push,) = iphone.wait_for("fax_new")
    assert push["page_count"] == 2
    # FCM takes texts only.
    (push,) = android.wait_for("fax_new")
    assert push["page_count"] == "2"


def test_a_fax_waits_while_apple_is_down(tocsin: LocalTocsin) -> None:
    tocsin.set_faults({"match": {"provider": "apns"}, "status": 503, "reason": "ServiceUnavailable"})
    anna = tocsin.add_user()
    iphone = anna.add_iphone()

    FaxBackend(tocsin.url, tocsin.key).receive_fax(anna.id, pages=1)

    assert iphone.received() == []
    tocsin.set_faults()
    iphone.wait_for("fax_new", timeout_s=60)
