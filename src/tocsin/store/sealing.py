"""Envelope encryption: each record under a data key of its own, which is wrapped by a master key.

Both with AES-256-GCM (NIST SP 800-38D), with a random 96-bit nonce each, and with the record's identity as associated
data: a record that is moved to another row cannot be opened there. A change of the master key wraps the data keys anew
and leaves the contents as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from tocsin.store.ports import StoreError

RandomBytes = Callable[[int], bytes]
"""So many bytes that nobody can foretell: the system's, but for tests that must repeat."""

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_WRAPPED_BYTES: Final = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES


class MasterKey:
    """A key of 32 bytes, known by an id that is derived from it, so that neither can be taken for another's."""

    __slots__ = ("_aead", "id", "secret")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes, not {len(secret)}")
        self.secret = secret
        self.id = blake2b(secret, digest_size=6, person=b"tocsin key id").hexdigest()
        self._aead = AESGCM(secret)

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"

    def wrap(self, data_key: bytes, identity: bytes, random: RandomBytes) -> bytes:
        return _encrypt(self._aead, data_key, identity, random)

    def unwrap(self, wrapped: bytes, identity: bytes) -> bytes:
        """Raises `cryptography.exceptions.InvalidTag`."""
        return _decrypt(self._aead, wrapped, identity)


class Sealed(Struct, frozen=True):
    """A record as it is stored: its wrapped data key, then its content."""

    key_id: str
    """Of the master key that wraps its data key."""
    record: bytes


class SealError(StoreError):
    """A record cannot be opened: its master key is missing, or it was changed, or moved. The message never shows it."""


class Keyring:
    """The master keys that are known. The first one seals, all of them open."""

    def __init__(self, keys: Sequence[MasterKey]) -> None:
        assert keys
        self.current = keys[0]
        self._by_id = {key.id: key for key in keys}

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._by_id

    def seal(self, identity: str, content: bytes, random: RandomBytes) -> Sealed:
        """`identity` is what the record is, and where: it must be the same when it is opened."""
        data_key, of = random(KEY_BYTES), identity.encode()
        record = self.current.wrap(data_key, of, random) + _encrypt(AESGCM(data_key), content, of, random)
        return Sealed(self.current.id, record)

    def open(self, identity: str, sealed: Sealed) -> bytes:
        """The content of a record.

        Raises:
            SealError: its master key is not here, or it is not the record of this identity as it was sealed.
        """
        of = identity.encode()
        data_key = self._unwrapped(identity, sealed)
        try:
            return _decrypt(AESGCM(data_key), sealed.record[_WRAPPED_BYTES:], of)
        except InvalidTag:
            raise _changed(identity, sealed) from None

    def rewrap(self, identity: str, sealed: Sealed, random: RandomBytes) -> Sealed:
        """The same record, its data key wrapped by the current master key.

        Raises:
            SealError: as `open` does.
        """
        data_key = self._unwrapped(identity, sealed)
        wrapped = self.current.wrap(data_key, identity.encode(), random)
        return Sealed(self.current.id, wrapped + sealed.record[_WRAPPED_BYTES:])

    def _unwrapped(self, identity: str, sealed: Sealed) -> bytes:
        key = self._by_id.get(sealed.key_id)
        if key is None:
            raise missing([sealed.key_id])
        try:
            return key.unwrap(sealed.record[:_WRAPPED_BYTES], identity.encode())
        except InvalidTag:
            raise _changed(identity, sealed) from None


def missing(key_ids: Sequence[str]) -> SealError:
    """What to say where master keys are missing."""
    which = f"the master key {key_ids[0]}" if len(key_ids) == 1 else f"the master keys {', '.join(key_ids)}"
    return SealError(
        f"the store is encrypted with {which}, which tocsin was not given; put it back where the keys are kept"
        " (docs/operating.md, “The master key”); where it is lost for good: tocsin store give-up-key"
    )


def _changed(identity: str, sealed: Sealed) -> SealError:
    return SealError(
        f"{identity}: it cannot be decrypted with its master key {sealed.key_id}: it was changed or moved;"
        " remove it and add it again"
    )


def _encrypt(aead: AESGCM, content: bytes, identity: bytes, random: RandomBytes) -> bytes:
    nonce = random(_NONCE_BYTES)
    return nonce + aead.encrypt(nonce, content, identity)


def _decrypt(aead: AESGCM, encrypted: bytes, identity: bytes) -> bytes:
    try:
        return aead.decrypt(encrypted[:_NONCE_BYTES], encrypted[_NONCE_BYTES:], identity)
    except ValueError:  # too short to be anything that was encrypted here
        raise InvalidTag from None
