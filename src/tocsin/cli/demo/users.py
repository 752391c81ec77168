"""The three users of the demo, and their phones."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from msgspec import Struct

from tocsin.providers.apns.address import NAME as APNS
from tocsin.providers.fcm.address import NAME as FCM

APPLICATION_ID: Final = "39JSDKGJ38.de.cospace.app"
VOIP_TOPIC: Final = "de.cospace.app.voip"


class Phone(Struct, frozen=True):
    """One device token, as its app registers it."""

    name: str
    provider: str
    token: str
    sandbox: bool = False
    topic: str | None = None

    @property
    def reached_through(self) -> str:
        """The provider, its environment and the topic, in a few words."""
        if self.provider == FCM:
            return "FCM"
        environment = "APNs sandbox" if self.sandbox else "APNs production"
        return f"{environment}, topic {self.topic}" if self.topic else environment

    def registration(self) -> dict[str, Any]:
        """The body of `POST /api/push` that registers it."""
        body: dict[str, Any] = {"system": self.provider, "action": "add", "device_token": self.token}
        if self.provider == APNS:
            body |= {"application_id": APPLICATION_ID, "sandbox": self.sandbox}
            body |= {"apns_topic": self.topic} if self.topic else {}
        return body


class User(Struct, frozen=True):
    """A user of the platform, with the phones that are registered."""

    name: str
    id: str
    phones: tuple[Phone, ...]

    @property
    def first_name(self) -> str:
        """The name up to the first space."""
        return self.name.split()[0]


def user_of(token: str) -> tuple[User, Phone] | None:
    """The user and the phone that a device token belongs to."""
    for user in USERS:
        for phone in user.phones:
            if phone.token == token:
                return user, phone
    return None


def _apns(owner: str, name: str, *, sandbox: bool = False, topic: str | None = None) -> Phone:
    return Phone(name, APNS, sha256(f"{owner}, {name}".encode()).hexdigest(), sandbox, topic)


def _fcm(owner: str, name: str) -> Phone:
    return Phone(name, FCM, f"APA91b-{sha256(f'{owner}, {name}'.encode()).hexdigest()}")


ANNA: Final = User(
    "Anna Berg",
    "9aed5e94-3803-11e3-8475-0024e8f90cc0",
    (
        _apns("Anna", "iPhone"),
        _apns("Anna", "iPhone calls", topic=VOIP_TOPIC),
        _apns("Anna", "test iPad", sandbox=True),
        _fcm("Anna", "Pixel"),
    ),
)
JOHN: Final = User(
    "John Doe", "1de7257a-4f34-11e0-ab6e-0024e8f90cc1", (_apns("John", "iPhone"), _fcm("John", "Galaxy"))
)
MARIA: Final = User(
    "Maria Lind",
    "6f1d3c52-0b7e-4c1b-9a58-2f6f0e6a7d11",
    (_fcm("Maria", "Pixel"), _apns("Maria", "test iPhone", sandbox=True)),
)
USERS: Final = (ANNA, JOHN, MARIA)
