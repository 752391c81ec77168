"""One accepted push: kept as it came, parsed only when somebody looks."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tocsin.emulator.frames import Frame

_decode = msgspec.json.decode


class Arrived(Struct, frozen=True, gc=False):
    """`token` is whom it was for: the device token, or for FCM also the installation id, topic or condition.

    `time` is in Unix seconds. Outside the garbage collector's sight: thousands are kept, and none is part of a cycle.
    """

    time: float
    provider: str
    environment: str | None
    token: bytes
    id: bytes
    frame: Frame
    values: tuple[bytes | None, ...]
    """Of the header fields that vary from push to push; `frame` has the others."""
    body: bytes

    def as_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "environment": self.environment,
            "token": self.token.decode("latin-1"),
            "id": self.id.decode("latin-1"),
            "headers": self.frame.shown(self.values),
            "body": self._parsed(),
            "time": self.time,
        }

    def content(self) -> Any:
        """What the app gets: the APNs payload, or FCM's `message.data`."""
        body = self._parsed()
        return body["message"].get("data", {}) if self.provider == "fcm" else body

    def _parsed(self) -> Any:
        try:
            return _decode(self.body)
        except UnicodeDecodeError:
            # The check of the payload does not look into every string.
            return _decode(self.body.decode("utf-8", "replace"))
