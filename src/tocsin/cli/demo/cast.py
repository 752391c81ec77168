"""Who plays in the demo: three users, their phones, and the five events with the very contents of the document."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from msgspec import Struct

from tocsin.domain.devices import System

APPLICATION_ID: Final = "39JSDKGJ38.de.cospace.app"
VOIP_TOPIC: Final = "de.cospace.app.voip"


class Phone(Struct, frozen=True):
    """One device token, as its app registers it."""

    name: str
    system: System
    token: str
    sandbox: bool = False
    topic: str | None = None

    @property
    def through(self) -> str:
        if self.system is System.FCM:
            return "FCM"
        environment = "APNs sandbox" if self.sandbox else "APNs production"
        return f"{environment}, topic {self.topic}" if self.topic else environment

    def registration(self) -> dict[str, Any]:
        """The body of `POST /api/push` that registers it."""
        body: dict[str, Any] = {"system": str(self.system), "action": "add", "device_token": self.token}
        if self.system is System.APNS:
            body |= {"application_id": APPLICATION_ID, "sandbox": self.sandbox}
            body |= {"apns_topic": self.topic} if self.topic else {}
        return body


class Person(Struct, frozen=True):
    name: str
    id: str
    phones: tuple[Phone, ...]


def _apns(owner: str, name: str, *, sandbox: bool = False, topic: str | None = None) -> Phone:
    return Phone(name, System.APNS, sha256(f"{owner}, {name}".encode()).hexdigest(), sandbox, topic)


def _fcm(owner: str, name: str) -> Phone:
    return Phone(name, System.FCM, f"APA91b-{sha256(f'{owner}, {name}'.encode()).hexdigest()}")


ANNA: Final = Person(
    "Anna Berg",
    "9aed5e94-3803-11e3-8475-0024e8f90cc0",
    (
        _apns("Anna", "iPhone"),
        _apns("Anna", "iPhone calls", topic=VOIP_TOPIC),
        _apns("Anna", "test iPad", sandbox=True),
        _fcm("Anna", "Pixel"),
    ),
)
JOHN: Final = Person(
    "John Doe", "1de7257a-4f34-11e0-ab6e-0024e8f90cc1", (_apns("John", "iPhone"), _fcm("John", "Galaxy"))
)
MARIA: Final = Person(
    "Maria Lind",
    "6f1d3c52-0b7e-4c1b-9a58-2f6f0e6a7d11",
    (_fcm("Maria", "Pixel"), _apns("Maria", "test iPhone", sandbox=True)),
)
PEOPLE: Final = (ANNA, JOHN, MARIA)

# All five are Anna's: the phones of the other two must stay silent.
EVENTS: Final[tuple[dict[str, Any], ...]] = (
    {
        "owner": ANNA.id,
        "message": "fax_new",
        "fax": "af729cc0-3251-11e2-81c1-0800200c9a66",
        "phone": "+492215587412",
        "page_count": 2,
    },
    {
        "owner": ANNA.id,
        "message": "recording_new",
        "recording": "af729cc0-3251-11e2-81c1-0800200c9a66",
        "phone": "+492215587412",
    },
    {
        "owner": ANNA.id,
        "message": "dialplan_callreverse_start",
        "phone_from": "+4989123248278",
        "phone_to": "+492216698000",
    },
    {
        "owner": ANNA.id,
        "message": "dialplan_callreverse_stop",
        "phone_from": "+4989123248278",
        "phone_to": "+492216698000",
    },
    {
        "owner": ANNA.id,
        "message": "chat_message",
        "chat": "52a9fd3c-8aad-11e0-9138-0024e8f90cc0",
        "uuid": "c1aa1566-84d7-11e2-a7a8-0024e8f90cc0",
        "time": 1362407297,
        "user": JOHN.id,
        "user_name": JOHN.name,
        "type": "text",
        "text": "what's for lunch today?",
    },
)
EXPECTED: Final = frozenset((event["message"], phone.token) for event in EVENTS for phone in ANNA.phones)
"""Every (event, device token) that has to arrive."""


def understood(content: dict[str, Any]) -> str:
    """What an app would tell its user, from the content that arrived; APNs and FCM content read the same."""
    match content["message"]:
        case "fax_new":
            return f"New fax from {content['phone']}, pages: {content['page_count']}"
        case "recording_new":
            return f"New recording of a call from {content['phone']}"
        case "dialplan_callreverse_start":
            return f"Call from {content['phone_from']} to {content['phone_to']} is being set up"
        case "dialplan_callreverse_stop":
            return f"Call from {content['phone_from']} to {content['phone_to']} is over"
        case "chat_message":
            return f"{content['user_name']}: {content.get('text') or content['type']}"
        case other:
            return f"an event that this app does not know: {other}"
