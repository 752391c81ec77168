"""Ids for events: UUIDs of version 7 (RFC 9562, 5.7), which tocsin stores best, as they grow with time."""

from __future__ import annotations

import os
import time
from uuid import UUID


def new_event_id() -> UUID:
    """A new id: 48 bits of Unix milliseconds, and 74 random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
