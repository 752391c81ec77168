"""Secrets of keys and sessions: how they are made, what of them is stored, and what is remembered."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final, Generic, TypeVar

from tocsin.domain.events import UserId
from tocsin.store.records import ApiKey, KeyLimits, Role, Session

_REMEMBERED: Final = 100_000
Holder = TypeVar("Holder", Session, ApiKey)


def hash_of(secret: str) -> bytes:
    """The secrets are 256 random bits, so one round of SHA-256 is enough: there is nothing to guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Remembered(Generic[Holder]):
    """What secrets were found to open: bounded, forgotten whole when it is full or the file was changed elsewhere."""

    def __init__(self) -> None:
        self._by_hash: dict[bytes, Holder] = {}

    def get(self, key: bytes) -> Holder | None:
        return self._by_hash.get(key)

    def put(self, key: bytes, holder: Holder) -> None:
        if len(self._by_hash) >= _REMEMBERED:
            self._by_hash.clear()
        self._by_hash[key] = holder

    def forget(self) -> None:
        self._by_hash.clear()


def new_session(owner: UserId | None, now_ms: int, expires_ms: int | None) -> tuple[str, Session]:
    """A session with its secret."""
    return secrets.token_urlsafe(32), Session("ses_" + secrets.token_hex(6), owner, now_ms, expires_ms)


def new_key(role: Role, name: str, now_ms: int, expires_ms: int | None, limits: KeyLimits) -> tuple[str, ApiKey]:
    """A key with its secret."""
    secret = f"tocsin_{role.value}_{secrets.token_urlsafe(32)}"
    return secret, ApiKey("key_" + secrets.token_hex(6), role, name, now_ms, expires_ms, limits)
