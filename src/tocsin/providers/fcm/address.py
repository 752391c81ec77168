"""How a device is reached through FCM: its project and the field that its token belongs into; what may be registered.

Source: Google, "FCM HTTP v1 API", projects.messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct

from tocsin.domain.devices import Address, Device, DeviceToken
from tocsin.domain.explanations import Explanation
from tocsin.providers.fcm import sentences
from tocsin.providers.fcm.payload import ALWAYS_FITS_BYTES, data
from tocsin.providers.fields import Fields

NAME: Final = "fcm"
DEVICE_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")
"""Matched whole (`fullmatch`)."""
PROJECT_ID: Final = re.compile(r"(?:[a-z0-9][a-z0-9.-]{0,99}:)?[a-z0-9][a-z0-9-]{0,99}")
"""Google's id of a project. That of a domain begins with the domain and a colon: `example.com:calls`. Source: Google,
`AppId` in the App Engine SDK, and the parameter `project` in the discovery documents of its APIs."""
PROJECT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,200}")
"""What the operator calls a project. Every `PROJECT_ID` is one: a project is called by its id where nothing else is
said."""
# A Firebase installation id: 17 bytes in base64url, the first four bits 0111 (firebase-installations).
_INSTALLATION_ID: Final = re.compile(r"[c-f][A-Za-z0-9_-]{21}")
_RESERVED: Final = frozenset({"from", "message_type", "gcm"})
_RESERVED_PREFIXES: Final = ("google.", "gcm.")


class FcmAddress(Struct, frozen=True):
    """Nothing is registered but the token. What deliveries have learned: which project is the token's sender, and which
    field of the message it belongs into."""

    project: str | None = None
    field: str | None = None

    def text(self) -> Address:
        """As it is stored. Migration 0005 writes the same."""
        given = {"project": self.project, "field": self.field}
        return Address(urlencode({name: value for name, value in given.items() if value is not None}))


@lru_cache(10_000)
def parse(address: Address) -> FcmAddress:
    """The address that was stored."""
    fields = dict(parse_qsl(address))
    return FcmAddress(fields.get("project"), fields.get("field"))


def address_field(token: str) -> str:
    """The field of `message` that a stored token belongs into: `fid` for an installation id, else `token`."""
    return "fid" if _INSTALLATION_ID.fullmatch(token) else "token"


class FcmTokens(Struct, frozen=True):
    """FCM registration tokens, in order of registration."""

    device_tokens: list[str]


class FcmRules:
    """See `base.Rules`."""

    name = NAME
    fields: frozenset[str] = frozenset()
    always_fits_bytes = ALWAYS_FITS_BYTES

    def token(self, text: str) -> DeviceToken:
        if not DEVICE_TOKEN.fullmatch(text):
            raise ValueError("an FCM registration token is 1 to 4096 printable ASCII characters without spaces")
        return DeviceToken(text)

    def address(self, fields: Fields) -> Address:
        return FcmAddress().text()

    def account(self, address: Address) -> str | None:
        return None

    def section(self, devices: Sequence[Device]) -> FcmTokens:
        return FcmTokens([device.token for device in devices])

    def describe(self, address: Address) -> Mapping[str, Any]:
        parsed = parse(address)
        learned = {"learned_project": parsed.project, "learned_field": parsed.field}
        return {name: value for name, value in learned.items() if value is not None}

    def summary(self, address: Address) -> str:
        return "FCM"

    def lanes(self, account: str) -> Sequence[str]:
        return [f"{NAME}:{account}"]

    def account_of(self, lane: str) -> str:
        return lane.partition(":")[2]

    def said(self, status: int, reason: str) -> Explanation | None:
        return sentences.said(status, reason)

    def reserves(self, field: str) -> bool:
        """Google, "FCM HTTP v1 API", Message, `data`."""
        return field in _RESERVED or field.startswith(_RESERVED_PREFIXES)

    def check_fits(self, body: bytes) -> None:
        data(body)
