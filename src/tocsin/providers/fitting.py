"""Makes an event fit a provider's limit: the longest beginning of its `text` that fits, and a mark that it was cut.

Pure functions over the canonical JSON that `domain.events.parse_event` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import msgspec

_ELLIPSIS: Final = "…"
_DIGEST_BYTES: Final = 16
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(dict[str, Any]).decode


def shorten(
    fields: dict[str, Any], truncated: bool | str, size: Callable[[dict[str, Any]], int], limit_bytes: int
) -> dict[str, Any]:
    """`fields` with the longest beginning of `text` that fits, an ellipsis after it, and `text_truncated` beside it.

    `size` tells how many bytes some fields take; `truncated` is the value of `text_truncated`.

    Raises:
        ValueError: they do not fit, even without the text.
    """
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


def cut_text(body: bytes, longest: int) -> bytes:
    """`body` without the end of a `text` of more than `longest` characters, which no limit could ever let through.

    It would be stored and held in memory for nothing. In the end's place stands its digest: two texts that differ only
    there are still two contents. As no character takes less than a byte, and the fields around the text take more than
    the digest, `longest` characters are still too long for every limit up to `longest` bytes: what is kept is shortened
    where `body` would be.
    """
    fields = decode(body)
    text = fields.get("text")
    if not isinstance(text, str) or len(text) <= longest:
        return body
    kept = longest - 2 * _DIGEST_BYTES
    fields["text"] = text[:kept] + blake2b(text[kept:].encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return encode(fields)
