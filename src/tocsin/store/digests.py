"""By what the content of an event is remembered: to tell a repeated id from one that was used for something else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import blake2b

Digest = Callable[[bytes], str]


def digest_with(key: bytes = b"") -> Digest:
    """A function from content to its digest: BLAKE2b (RFC 7693) of 16 bytes, in hex, keyed where there is a key."""
    return partial(_digest, key)


def _digest(key: bytes, body: bytes) -> str:
    return blake2b(body, digest_size=16, key=key).hexdigest()
