"""An event's body as each provider wants it, fitted to the provider's limit.

Pure functions over the canonical JSON that `events.parse_event` makes. Rendered once per event and provider, never
per device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

APNS_LIMIT_BYTES: Final = 4096
"""Apple, "Generating a remote notification": the maximum payload of a notification that is not VoIP."""
APNS_VOIP_LIMIT_BYTES: Final = 5120
FCM_DATA_LIMIT_BYTES: Final = 4096
"""Google, "About FCM messages": keys and values of `data`, together."""

_APS: Final = b'{"aps":{"content-available":1},'
_ELLIPSIS: Final = "…"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def apns_payload(body: bytes, limit_bytes: int = APNS_LIMIT_BYTES) -> bytes:
    """The APNs content: `aps` with `content-available`, then the event's fields in their native JSON types.

    Raises:
        ValueError: it does not fit, even without its text.
    """
    payload = _APS + body[1:]
    if len(payload) <= limit_bytes:
        return payload
    fields = _shorten(_decode(body), True, lambda candidate: len(_APS) + len(_encode(candidate)) - 1, limit_bytes)
    return _APS + _encode(fields)[1:]


def fcm_data(body: bytes) -> bytes:
    """The FCM `data` as JSON: the event's fields, every value a string.

    Raises:
        ValueError: it does not fit, even without its text.
    """
    data = {key: _as_string(value) for key, value in _decode(body).items()}
    # A body within the limit is within it as `data` too: strings only lose their quotes and escapes.
    if len(body) > FCM_DATA_LIMIT_BYTES and _data_size(data) > FCM_DATA_LIMIT_BYTES:
        data = _shorten(data, "true", _data_size, FCM_DATA_LIMIT_BYTES)
    return _encode(data)


def sendable(body: bytes) -> bytes:
    """What is to be kept of this event: `body`, without the end of a `text` that no limit could ever let through.

    It would be stored and held in memory for nothing. What is kept renders exactly as `body` does.

    Raises:
        ValueError: it can never be sent: somewhere it does not fit, even without its text.
    """
    if len(body) + len(_APS) - 1 <= min(APNS_LIMIT_BYTES, FCM_DATA_LIMIT_BYTES):
        return body
    apns_payload(body)
    fcm_data(body)
    fields = _decode(body)
    text = fields.get("text")
    if not isinstance(text, str) or len(text) <= APNS_VOIP_LIMIT_BYTES:
        return body
    # No character takes less than a byte: what is left is still too long for everybody, and is shortened as before.
    fields["text"] = text[:APNS_VOIP_LIMIT_BYTES]
    return _encode(fields)


def _as_string(value: Any) -> str:
    """A value as FCM wants it: strings as they are, integers in decimal, booleans `true`/`false`, the rest as JSON."""
    return value if isinstance(value, str) else _encode(value).decode()


def _data_size(data: dict[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in data.items())


def _shorten(
    fields: dict[str, Any], truncated: bool | str, size: Callable[[dict[str, Any]], int], limit_bytes: int
) -> dict[str, Any]:
    """`fields` with the longest beginning of `text` that fits, an ellipsis after it, and `text_truncated` beside it."""
    text = fields.get("text")
    if not isinstance(text, str):
        raise ValueError(f"over the providers' limit of {limit_bytes} bytes, and there is no text to shorten")

    def candidate(length: int) -> dict[str, Any]:
        shortened: dict[str, Any] = {}
        for key, value in fields.items():
            if key == "text":
                shortened["text"] = text[:length] + _ELLIPSIS
                shortened["text_truncated"] = truncated
            elif key != "text_truncated":
                shortened[key] = value
        return shortened

    if size(candidate(0)) > limit_bytes:
        raise ValueError(f"over the providers' limit of {limit_bytes} bytes, even without its text")
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if size(candidate(middle)) <= limit_bytes else (fits, middle)
    return candidate(fits)
