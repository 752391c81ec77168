"""What may be registered: an https URL and a key of 32 bytes, in hex."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from msgspec import Struct

from tocsin.domain.devices import Address, Device, DeviceToken
from tocsin.domain.explanations import Code, Explanation
from tocsin.providers.fields import FieldError, Fields, read

NAME: Final = "post"
LIMIT_BYTES: Final = 2048
_TOKEN: Final = re.compile(r"[a-z0-9]{1,40}")
_KEY: Final = re.compile(r"[0-9a-f]{64}")


class PostAddress(Struct, frozen=True):
    url: str
    key: str

    def text(self) -> Address:
        return Address(urlencode({"url": self.url, "key": self.key}))


def parse(address: Address) -> PostAddress:
    fields = dict(parse_qsl(address))
    return PostAddress(fields["url"], fields["key"])


class PostRules:
    """See `base.Rules`."""

    name = NAME
    fields = frozenset({"url", "key"})
    always_fits_bytes = LIMIT_BYTES

    def token(self, text: str) -> DeviceToken:
        if not _TOKEN.fullmatch(text):
            raise ValueError("a token is 1 to 40 letters and digits")
        return DeviceToken(text)

    def address(self, fields: Fields) -> Address:
        url, key = read(fields, "url", str), read(fields, "key", str)
        if urlsplit(url).scheme != "https":
            raise FieldError("url", "must be an https URL")
        if not _KEY.fullmatch(key):
            raise FieldError("key", "must be 32 bytes in hex")
        return PostAddress(url, key).text()

    def account(self, address: Address) -> str | None:
        return None

    def section(self, devices: Sequence[Device]) -> Any:
        return {"device_tokens": [device.token for device in devices]}

    def describe(self, address: Address) -> Mapping[str, Any]:
        return {"url": parse(address).url}

    def summary(self, address: Address) -> str:
        return urlsplit(parse(address).url).netloc

    def lanes(self, account: str) -> Sequence[str]:
        return [f"{NAME}:{account}"]

    def account_of(self, lane: str) -> str:
        return lane.partition(":")[2]

    def said(self, status: int, reason: str) -> Explanation | None:
        return Explanation(Code.APP_UNINSTALLED, "The phone is gone.") if status == 410 else None

    def reserves(self, field: str) -> bool:
        return field == "encrypted"

    def check_fits(self, body: bytes) -> None:
        if len(body) > LIMIT_BYTES:
            raise ValueError(f"over the providers' limit of {LIMIT_BYTES} bytes")
