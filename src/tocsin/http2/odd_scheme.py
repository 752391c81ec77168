"""Takes requests whose `:scheme` is `https:`, with the colon, as Node's firebase-admin sends them.

The engine resets such a stream (RFC 9113, 8.3.1; RFC 3986, 3.1); Google's servers answer it. So the value is replaced
before the engine reads it, by one of the same length in HPACK's static Huffman code and without it: the sizes of frames
and of the dynamic table (RFC 7541, 4.1) stay as the client believes them to be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from tocsin.http2.messages import Header

_PREFACE_BYTES: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_FRAME_HEAD_BYTES: Final = 9
_HEADERS: Final = 1
_CONTINUATION: Final = 9

_ODD: Final = b"https:"
_STAND_IN: Final = b"httpsx"
# `:scheme` by its index in the static table (6 or 7; literal with, without, and never to be indexed), and the value as
# it is or in Huffman code (RFC 7541, 5.2, 6.2, appendices A and B): `x` takes seven bits, as the colon does.
_NAME: Final = rb"([\x46\x47\x06\x07\x16\x17])"
_PLAIN: Final = re.compile(_NAME + rb"\x06https:")
_PLAIN_STAND_IN: Final = b"\x06" + _STAND_IN
_CODED: Final = re.compile(_NAME + rb"\x85\x9d\x29\xad\x17\x3f")
_CODED_STAND_IN: Final = b"\x85\x9d\x29\xad\x1e\x7f"


class SchemeRepair:
    """The bytes that one client sends, repaired.

    A client whose first request has a good scheme needs no repair from then on (`needless`).
    """

    def __init__(self) -> None:
        self._held = b""
        self._skip = _PREFACE_BYTES
        self._found = False
        self.needless = False
        """Whether the first request has come, and had a good scheme."""

    def feed(self, data: bytes) -> bytes:
        """What the engine may read now: whole frames; the rest is held until more arrives."""
        data = self._held + data
        start = min(self._skip, len(data))
        self._skip -= start
        ready = [data[:start]]
        while not self.needless and len(data) - start >= _FRAME_HEAD_BYTES:
            end = start + _FRAME_HEAD_BYTES + int.from_bytes(data[start : start + 3], "big")
            if len(data) < end:
                break
            frame, kind = data[start:end], data[start + 3]
            start = end
            if kind in (_HEADERS, _CONTINUATION):
                repaired = _repaired(frame)
                self._found = self._found or repaired != frame
                self.needless = not self._found
                frame = repaired
            ready.append(frame)
        if self.needless:
            ready.append(data[start:])
            start = len(data)
        self._held = data[start:]
        return b"".join(ready)

    def as_sent(self, headers: Sequence[Header]) -> Sequence[Header]:
        """A request's fields as the client sent them."""
        if not self._found:
            return headers
        return [(name, _ODD if (name, value) == (b":scheme", _STAND_IN) else value) for name, value in headers]


def _repaired(frame: bytes) -> bytes:
    return _PLAIN.sub(rb"\1" + _PLAIN_STAND_IN, _CODED.sub(rb"\1" + _CODED_STAND_IN, frame))
