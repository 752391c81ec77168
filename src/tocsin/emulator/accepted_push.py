"""One accepted push: stored as received, and parsed only when it is read."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tocsin.emulator.header_cache import SharedFields

_decode = msgspec.json.decode


class AcceptedPush(Struct, frozen=True, gc=False):
    """One push that APNs or FCM accepted.

    `gc=False` keeps these objects out of the garbage collector's search, which saves time: an inbox holds thousands,
    and none is part of a reference cycle.
    """

    time: float
    """When it was accepted, in Unix seconds."""
    provider: str
    """`apns` or `fcm`."""
    environment: str | None
    """`production` or `sandbox` for APNs, None for FCM."""
    token: bytes
    """The target: the APNs device token, or FCM's registration token, installation id, topic or condition."""
    id: bytes
    """The `apns-id`, or the last part of FCM's message name."""
    shared: SharedFields[Any]
    """The header fields that this request has in common with others."""
    values: tuple[bytes | None, ...]
    """The values of the header fields that vary, in the order of `shared.varying_names`."""
    body: bytes

    def as_json(self) -> dict[str, Any]:
        """The push as `GET /inbox` returns it."""
        return {
            "provider": self.provider,
            "environment": self.environment,
            "token": self.token.decode("latin-1"),
            "id": self.id.decode("latin-1"),
            "headers": self.shared.without_credentials(self.values),
            "body": self._parsed_body(),
            "time": self.time,
        }

    def app_data(self) -> Any:
        """What the app on the device receives: the APNs payload, or FCM's `message.data`."""
        body = self._parsed_body()
        return body["message"].get("data", {}) if self.provider == "fcm" else body

    def _parsed_body(self) -> Any:
        try:
            return _decode(self.body)
        except UnicodeDecodeError:
            # The payload check does not decode every string, so that an accepted body may have invalid UTF-8.
            return _decode(self.body.decode("utf-8", "replace"))
