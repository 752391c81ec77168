"""By what the content of an event is remembered: to tell a repeated id from one that was used for something else.

The digest is keyed: without its key nobody can try out which content it belongs to. It is BLAKE2b (RFC 7693) of 16
bytes, encrypted as one block of AES-256 (FIPS 197). So the digests of a batch take one call of the cipher, and those
that versions before 0009 have stored, without a key, become keyed without their contents.

The key is one of its own, which stays when the master key changes: a repeat is recognised for as long as its id is
remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

DIGEST_KEY: Final = "digest"
"""What the key is called where it is kept."""
_BYTES: Final = 16

# A copy takes half the time of a new one, and every event needs one.
_copy = blake2b(digest_size=_BYTES).copy


class Digests:
    """Makes digests with one key."""

    def __init__(self, key: bytes) -> None:
        # Each block is a digest of its own: for single blocks ECB is the cipher itself.
        self._cipher = Cipher(AES256(key), ECB())

    def of(self, contents: Iterable[bytes]) -> list[bytes]:
        """The digest of each content."""
        unkeyed = []
        for content in contents:
            hasher = _copy()
            hasher.update(content)
            unkeyed.append(hasher.digest())
        keyed = self._keyed(b"".join(unkeyed))
        return [keyed[at : at + _BYTES] for at in range(0, len(keyed), _BYTES)]

    def of_one(self, content: bytes) -> bytes:
        [digest] = self.of([content])
        return digest

    def of_unkeyed(self, digest: str) -> bytes:
        """From the digest that versions before 0009 have stored: in hex, without a key."""
        return self._keyed(bytes.fromhex(digest))

    def _keyed(self, digests: bytes) -> bytes:
        return self._cipher.encryptor().update(digests)


def identity(name: str) -> str:
    """As what a key that is kept is sealed."""
    return f"kept key {name}"
