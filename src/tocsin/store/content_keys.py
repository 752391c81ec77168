"""The keys by which the contents of events are encrypted: one an hour, each wrapped by the master key.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce, and with the event's id as associated data: a content that is
moved to another event cannot be opened there. NIST allows 2^32 contents under one key with random nonces; an hour of a
million a second has fewer.

A key is dropped some time after its hour. What it has encrypted and is still needed is encrypted by a living key
before; all else (in a log, a free page, a copy of the disk) cannot be read by anybody from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from tocsin.domain.events import Event, EventId
from tocsin.store.envelope import enclosed
from tocsin.store.sealer import Sealer
from tocsin.store.sealing import KEY_BYTES, RandomBytes, Sealed

HOUR_MS: Final = 3600 * 1000
DROPPED_AFTER_MS: Final = 2 * HOUR_MS
"""So long after its hour a key is dropped."""
FORGOTTEN_WITHIN_MS: Final = 4 * HOUR_MS
"""So long after an event's end nothing that was ever written of its content can be read any more: its last key lasts
for the rest of its hour and `DROPPED_AFTER_MS`, and what it still has to keep is carried forward within minutes."""

_NONCE_BYTES: Final = 12
OVERHEAD_BYTES: Final = _NONCE_BYTES + 16
"""By so much an encrypted content is longer: its nonce and its tag."""
_ID_BITS: Final = 62


class ContentKey:
    """The key of an hour, ready to be used."""

    __slots__ = ("_decrypt", "_encrypt", "id")

    def __init__(self, id: int, secret: bytes) -> None:
        aead = AESGCM(secret)
        self.id = id
        self._encrypt, self._decrypt = aead.encrypt, aead.decrypt

    def __repr__(self) -> str:
        return f"ContentKey({self.id})"

    def seal(self, events: Sequence[Event], random: RandomBytes) -> list[bytes]:
        """The contents of these events, encrypted."""
        encrypt, nonces = self._encrypt, random(_NONCE_BYTES * len(events))
        each = [nonces[at : at + _NONCE_BYTES] for at in range(0, len(nonces), _NONCE_BYTES)]
        return [
            nonce + encrypt(nonce, enclosed(event) if event.trace else event.body, event.id.encode())
            for nonce, event in zip(each, events, strict=True)
        ]

    def seal_one(self, event_id: EventId, content: bytes, random: RandomBytes) -> bytes:
        nonce = random(_NONCE_BYTES)
        return nonce + self._encrypt(nonce, content, event_id.encode())

    def open(self, event_id: EventId, sealed: bytes) -> bytes:
        """Raises `cryptography.exceptions.InvalidTag`: it is not this event's content as it was encrypted."""
        try:
            return self._decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], event_id.encode())
        except ValueError:  # too short to be anything that was encrypted here
            raise InvalidTag from None


class NewContentKey(Struct, frozen=True):
    """A key as a store keeps it: from when until when contents are encrypted by it (Unix milliseconds)."""

    id: int
    from_ms: int
    until_ms: int
    sealed: Sealed


class ContentKeys:
    """The keys that were needed lately, unwrapped. Ids are random: no two keys ever have the same."""

    def __init__(self, sealer: Sealer, random: RandomBytes) -> None:
        self._sealer = sealer
        self._known: dict[int, ContentKey] = {}
        self._asked_for: set[str] = set()
        self.random = random

    def find(self, id: int) -> ContentKey | None:
        return self._known.get(id)

    def make(self, now_ms: int) -> NewContentKey:
        """A key for this hour, to be stored in the transaction of the first content that it encrypts, or before.

        Raises:
            StoreError: there is no master key to wrap it by.
        """
        id, secret = int.from_bytes(self.random(8)) >> (64 - _ID_BITS), self.random(KEY_BYTES)
        sealed = self._sealer.seal(_identity(id), secret)
        self._known[id] = ContentKey(id, secret)
        from_ms = now_ms - now_ms % HOUR_MS
        return NewContentKey(id, from_ms, from_ms + HOUR_MS, sealed)

    def unwrap(self, id: int, sealed: Sealed) -> ContentKey:
        """Raises StoreError where its master key is missing, or it was changed."""
        key = self._known[id] = ContentKey(id, self._sealer.open(_identity(id), sealed))
        return key

    def learn_master_key(self, key_id: str) -> None:
        """Somebody wraps keys by this one: where it is not known, look for it, once, so that the next is used too."""
        if key_id not in self._asked_for:
            self._asked_for.add(key_id)
            self._sealer.look_for(key_id)

    def keep_only(self, ids: Iterable[int]) -> None:
        """All others were dropped."""
        living = set(ids)
        for id in [id for id in self._known if id not in living]:
            del self._known[id]


def _identity(id: int) -> str:
    """As what the key is sealed."""
    return f"content key {id}"
