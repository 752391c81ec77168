"""How a device is reached through APNs: its application, its environment, its topic; and what may be registered.

Source: Apple, "Registering your app with APNs"; "Sending notification requests to APNs".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from msgspec import UNSET, Struct, UnsetType

from tocsin.domain.devices import Address, Device, DeviceToken
from tocsin.domain.explanations import Explanation
from tocsin.providers.apns import sentences
from tocsin.providers.apns.payload import ALWAYS_FITS_BYTES, payload
from tocsin.providers.fields import FieldError, Fields, read

NAME: Final = "apns"
PRODUCTION: Final = "production"
SANDBOX: Final = "sandbox"
APPLICATION_ID: Final = re.compile(r"[a-zA-Z0-9]{10}\.[a-zA-Z0-9.-]{5,100}")
"""Team id, a dot, bundle id. Matched whole (`fullmatch`), like its siblings here."""
TOPIC: Final = re.compile(r"[a-zA-Z0-9.-]{5,100}")
DEVICE_TOKEN: Final = re.compile(r"[0-9a-fA-F]{64}")
KEY_ID: Final = re.compile(r"[A-Za-z0-9]{10}")
"""Apple's id of a key: ten characters."""
_MOST_PARSED: Final = 10_000


class ApnsAddress(Struct, frozen=True):
    """What was registered, and (`learned_sandbox`) in which other environment Apple turned out to know the token."""

    application_id: str
    sandbox: bool = False
    apns_topic: str | None = None
    learned_sandbox: bool | None = None

    @property
    def environment_is_sandbox(self) -> bool:
        return self.sandbox if self.learned_sandbox is None else self.learned_sandbox

    @property
    def topic(self) -> str:
        """The topic given at registration, else the bundle id."""
        return self.apns_topic or bundle_id(self.application_id)

    def text(self) -> Address:
        """As it is stored. Migration 0005 writes the same."""
        fields = {"application": self.application_id}
        if self.sandbox:
            fields["sandbox"] = "true"
        if self.apns_topic is not None:
            fields["topic"] = self.apns_topic
        if self.learned_sandbox is not None:
            fields["learned_sandbox"] = "true" if self.learned_sandbox else "false"
        return Address(urlencode(fields))


@lru_cache(_MOST_PARSED)
def parse(address: Address) -> ApnsAddress:
    """The address that was stored. Devices of one application mostly share one: it is parsed once."""
    fields = dict(parse_qsl(address))
    learned = fields.get("learned_sandbox")
    return ApnsAddress(
        fields.get("application", ""),
        fields.get("sandbox") == "true",
        fields.get("topic"),
        None if learned is None else learned == "true",
    )


def team_id(application_id: str) -> str:
    """The ten characters that Apple puts before the bundle id."""
    return application_id.partition(".")[0]


def bundle_id(application_id: str) -> str:
    return application_id.partition(".")[2]


class ApnsRegistration(Struct, frozen=True, omit_defaults=True):
    """One device token's registration. `apns_topic` only where one was given."""

    application_id: str
    sandbox: bool
    apns_topic: str | UnsetType = UNSET


class ApnsTokens(Struct, frozen=True):
    """APNs device tokens, each with its registration."""

    device_tokens: dict[str, ApnsRegistration]


class ApnsRules:
    """See `base.Rules`."""

    name = NAME
    fields = frozenset({"application_id", "sandbox", "apns_topic"})
    always_fits_bytes = ALWAYS_FITS_BYTES

    def token(self, text: str) -> DeviceToken:
        if not DEVICE_TOKEN.fullmatch(text):
            raise ValueError("an APNs device token is 64 hexadecimal characters")
        return DeviceToken(text.lower())

    def address(self, fields: Fields) -> Address:
        application_id = read(fields, "application_id", str)
        sandbox = read(fields, "sandbox", bool) if "sandbox" in fields else False
        topic = read(fields, "apns_topic", str) if "apns_topic" in fields else None
        if not APPLICATION_ID.fullmatch(application_id):
            raise FieldError("application_id", f"must match ^{APPLICATION_ID.pattern}$", status="invalid-appid")
        if topic is not None and not TOPIC.fullmatch(topic):
            raise FieldError("apns_topic", f"must match ^{TOPIC.pattern}$", status="invalid-apns-topic")
        return ApnsAddress(application_id, sandbox, topic).text()

    def account(self, address: Address) -> str | None:
        return parse(address).application_id

    def section(self, devices: Sequence[Device]) -> ApnsTokens:
        return ApnsTokens({device.token: _registration(device.address) for device in devices})

    def describe(self, address: Address) -> Mapping[str, Any]:
        parsed = parse(address)
        described: dict[str, Any] = {
            "application_id": parsed.application_id,
            "sandbox": parsed.sandbox,
            "topic": parsed.topic,
        }
        if parsed.apns_topic is not None:
            described["apns_topic"] = parsed.apns_topic
        if parsed.learned_sandbox is not None:
            described["learned_sandbox"] = parsed.learned_sandbox
        return described

    def summary(self, address: Address) -> str:
        parsed = parse(address)
        return f"APNs {'sandbox' if parsed.sandbox else 'production'} {parsed.topic}"

    def lanes(self, account: str) -> Sequence[str]:
        return [f"{NAME}:{environment}:{account}" for environment in (PRODUCTION, SANDBOX)]

    def account_of(self, lane: str) -> str:
        return lane.partition(":")[2].partition(":")[2]

    def said(self, status: int, reason: str) -> Explanation | None:
        return sentences.said(status, reason)

    def reserves(self, field: str) -> bool:
        return field == "aps"

    def check_fits(self, body: bytes) -> None:
        payload(body)


@lru_cache(_MOST_PARSED)
def _registration(address: Address) -> ApnsRegistration:
    parsed = parse(address)
    return ApnsRegistration(parsed.application_id, parsed.sandbox, parsed.apns_topic or UNSET)
