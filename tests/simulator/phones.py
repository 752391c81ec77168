"""The phones of a simulation: each has one token, which one user or several have registered."""

from __future__ import annotations

from random import Random
from typing import Final

from msgspec import Struct

from tocsin.domain.devices import Address, Device, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.emulator.credentials import PROJECT_ID, TEAM_ID
from tocsin.providers.apns.address import ApnsAddress

APPLICATIONS: Final = tuple(f"{TEAM_ID}.app.{name}" for name in ("one", "two", "three"))
PROJECT: Final = PROJECT_ID
"""The default project, with which tocsin tries a device first."""
OTHER_PROJECT: Final = "another-app"
SUFFIXES: Final = ("", ".voip")


class Phone(Struct, eq=False):
    """A device token, and how the provider reaches it."""

    number: int
    provider: str
    token: str
    application: str = ""
    """For a phone of Google's its project, which tocsin is not told, and finds out."""
    topic: str = ""
    sandbox: bool = False
    """As its app registers it."""
    really_sandbox: bool = False
    """The environment that Apple knows the token in."""
    dead_from_s: float | None = None
    """Since when the provider calls the token dead (loop time), or did when it was dead last."""
    dead: bool = False
    death: tuple[int, str] = (0, "")
    """As what the provider calls it dead: status and reason (`rows.DEATHS`)."""
    dead_since_ms: int = 0
    """What the provider says of it (Unix milliseconds)."""

    @property
    def key(self) -> str:
        return f"{self.provider}:{self.token}"

    @property
    def address(self) -> Address:
        if self.provider == "fcm":
            return Address("")
        return ApnsAddress(self.application, self.sandbox, self.topic).text()

    def registration(self, owner: UserId) -> Registration:
        return Registration(owner, self.provider, DeviceToken(self.token), self.address)

    def __repr__(self) -> str:
        return f"phone {self.number} ({self.provider}{'' if not self.topic else ' ' + self.topic})"


def make_phone(
    number: int, random: Random, *, wrong_environment: bool, two_projects: bool, one_topic: bool = False
) -> Phone:
    """`one_topic`: nearly all are of one topic."""
    if random.random() < (0.1 if one_topic else 0.4):
        token = f"registration{number:06d}aaaaa:APA91b{'x' * 100}{number:06d}"
        return Phone(number, "fcm", token, OTHER_PROJECT if two_projects and number % 2 else PROJECT)
    if one_topic:
        suffix = SUFFIXES[number % 10 == 9]
        topic = APPLICATIONS[0].partition(".")[2] + suffix
        return Phone(number, "apns", f"{number:064x}", APPLICATIONS[0], topic)
    application = random.choice(APPLICATIONS)
    sandbox = random.random() < 0.2
    topic = application.partition(".")[2] + random.choice(SUFFIXES)
    really = sandbox != (wrong_environment and random.random() < 0.2)
    return Phone(number, "apns", f"{number:064x}", application, topic, sandbox, really)


def owner_of(number: int) -> UserId:
    return UserId(f"00000000-0000-4000-8000-{number:012d}")


def key_of(device: Device) -> str:
    return device.key
