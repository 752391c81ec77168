"""An event's body as Apple wants it, fitted to Apple's limit.

Source: Apple, "Generating a remote notification".
"""

from __future__ import annotations

from typing import Final

from tocsin.providers.fitting import decode, encode, shorten

LIMIT_BYTES: Final = 4096
"""The maximum payload of a notification that is not VoIP."""
VOIP_LIMIT_BYTES: Final = 5120

_APS: Final = b'{"aps":{"content-available":1},'
ALWAYS_FITS_BYTES: Final = LIMIT_BYTES - len(_APS) + 1


def payload(body: bytes, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """The APNs content: `aps` with `content-available`, then the event's fields in their native JSON types.

    Raises:
        ValueError: it does not fit, even without its text.
    """
    whole = _APS + body[1:]
    if len(whole) <= limit_bytes:
        return whole
    fields = shorten(decode(body), True, lambda candidate: len(_APS) + len(encode(candidate)) - 1, limit_bytes)
    return _APS + encode(fields)[1:]
