"""What a store encrypts of an event: its content, and behind it the trace of a sampled event.

So a trace goes through the durable queue without a column of its own, and is gone with the content.
"""

from __future__ import annotations

from typing import Final

from tocsin.domain.events import Event

_TRACEPARENT_BYTES: Final = 55
"""Of version 00 (W3C Trace Context)."""
TRACE_BYTES: Final = 1 + _TRACEPARENT_BYTES
"""By so much what is enclosed is longer than its content where the event is traced."""
_BEGINS: Final = b"\n00-"
"""No content ends in this and 52 bytes more: JSON has no line end within a string, and is written without others."""


def enclosed(event: Event) -> bytes:
    return event.body + b"\n" + event.trace if event.trace else event.body


def parted(content: bytes) -> tuple[bytes, bytes]:
    """The content of an event and its trace, as `Event` wants them."""
    if content[-TRACE_BYTES : 4 - TRACE_BYTES] != _BEGINS:
        return content, b""
    return content[:-TRACE_BYTES], content[1 - TRACE_BYTES :]
