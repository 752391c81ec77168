"""A user's devices, the applications they run, and the syntax of tokens, ids and topics."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NewType

from msgspec import Struct

from tocsin.domain.events import UserId

DeviceToken = NewType("DeviceToken", str)
ApplicationId = NewType("ApplicationId", str)

APPLICATION_ID: Final = re.compile(r"[a-zA-Z0-9]{10}\.[a-zA-Z0-9.-]{5,100}")
"""Team id, a dot, bundle id. Matched whole (`fullmatch`), like its siblings here."""
APNS_TOPIC: Final = re.compile(r"[a-zA-Z0-9.-]{5,100}")
APNS_DEVICE_TOKEN: Final = re.compile(r"[0-9a-fA-F]{64}")
FCM_DEVICE_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")


class System(StrEnum):
    APNS = "apns"
    FCM = "fcm"


class Device(Struct, frozen=True, array_like=True, gc=False):
    """One registration of a device token by one user.

    What was registered, and what delivery has learned since: `learned_sandbox` when Apple knew the token only in the
    other environment, `learned_project` and `learned_field` likewise for FCM.
    """

    owner: UserId
    system: str
    token: str
    application_id: str | None
    sandbox: bool
    apns_topic: str | None
    registered_us: int
    """Unix microseconds; a token registered again counts from then."""
    learned_sandbox: bool | None = None
    learned_project: str | None = None
    learned_field: str | None = None
    last_success_ms: int | None = None

    @property
    def topic(self) -> str:
        """The APNs topic: the one given at registration, else the bundle id."""
        return self.apns_topic or (self.application_id or "").partition(".")[2]

    @property
    def key(self) -> str:
        """What names this registration among its owner's: `apns:<token>`."""
        return f"{self.system}:{self.token}"


def team_id(application_id: str) -> str:
    """The ten characters that Apple puts before the bundle id."""
    return application_id.partition(".")[0]


def bundle_id(application_id: str) -> str:
    return application_id.partition(".")[2]


def token_error(system: System, token: str) -> str | None:
    """Why a device token is malformed, or None."""
    if system is System.APNS:
        return None if APNS_DEVICE_TOKEN.fullmatch(token) else "an APNs device token is 64 hexadecimal characters"
    if FCM_DEVICE_TOKEN.fullmatch(token):
        return None
    return "an FCM registration token is 1 to 4096 printable ASCII characters without spaces"
