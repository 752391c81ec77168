"""What a user is called where the name must outlive the user: a keyed hash, whose key is erased with the user.

The same user has the same pseudonym for as long as the key is there. Without the key nobody can say whose it was, even
whoever knows the user's UUID.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from tocsin.domain.events import UserId

PSEUDONYM_KEY_BYTES: Final = 32


def pseudonym(key: bytes, owner: UserId) -> str:
    """BLAKE2b (RFC 7693) of the owner's UUID, keyed with the key that was made for this owner alone."""
    return "user_" + blake2b(owner.encode(), digest_size=10, key=key).hexdigest()


def identity(owner: UserId) -> str:
    """As what the key of an owner is sealed."""
    return f"pseudonym {owner}"
