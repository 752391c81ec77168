"""An event's body as Google wants it, fitted to Google's limit.

Source: Google, "About FCM messages".
"""

from __future__ import annotations

from typing import Any, Final

from tocsin.providers.fitting import decode, encode, shorten

DATA_LIMIT_BYTES: Final = 4096
"""Keys and values of `data`, together."""
ALWAYS_FITS_BYTES: Final = DATA_LIMIT_BYTES
"""A body within the limit is within it as `data` too: strings only lose their quotes and escapes."""


def data(body: bytes) -> bytes:
    """The `data` as JSON: the event's fields, every value a string.

    Raises:
        ValueError: it does not fit, even without its text.
    """
    fields = {key: _as_string(value) for key, value in decode(body).items()}
    if len(body) > ALWAYS_FITS_BYTES and _data_size(fields) > DATA_LIMIT_BYTES:
        fields = shorten(fields, "true", _data_size, DATA_LIMIT_BYTES)
    return encode(fields)


def _as_string(value: Any) -> str:
    """A value as FCM wants it: strings as they are, integers in decimal, booleans `true`/`false`, the rest as JSON."""
    return value if isinstance(value, str) else encode(value).decode()


def _data_size(fields: dict[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in fields.items())
