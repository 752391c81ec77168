"""What a store is made of when it moves to another engine: rows that both engines have, and how they are compared.

A row has the same values on both sides, records and contents encrypted as they are: nothing is opened on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.events import EventId, UserId

_MODULUS: Final = 2**128
_encode = msgspec.msgpack.Encoder().encode


class Plain(Struct, frozen=True):
    """A table whose rows are copied as they are, in the order of its rows on SQLite."""

    table: str
    columns: tuple[tuple[str, str], ...]
    """Each with its type on PostgreSQL."""


_KEY: Final = (("key_id", "text"), ("record", "bytea"))
_EXPIRY: Final = (("created_ms", "bigint"), ("expires_ms", "bigint"))
_REGISTRATION: Final = (("owner", "uuid"), ("provider", "text"), ("token", "text"))

PLAIN: Final = (
    Plain("kept_key", (("name", "text"), *_KEY)),
    Plain("content_key", (("id", "bigint"), ("from_ms", "bigint"), ("until_ms", "bigint"), *_KEY)),
    Plain("pseudonym", (("owner", "uuid"), *_KEY)),
    Plain(
        "credential",
        (
            ("provider", "text"),
            ("account", "text"),
            ("content", "bytea"),
            ("is_default", "bool"),
            ("changed_ms", "bigint"),
            ("key_id", "text"),
        ),
    ),
    Plain(
        "credential_check",
        (
            ("provider", "text"),
            ("account", "text"),
            ("changed_ms", "bigint"),
            ("at_ms", "bigint"),
            ("sandbox", "bool"),
            ("ok", "bool"),
            ("sentence", "text"),
        ),
    ),
    Plain("session", (("hash", "bytea"), ("id", "text"), ("owner", "uuid"), *_EXPIRY)),
    Plain(
        "api_key", (("hash", "bytea"), ("id", "text"), ("role", "text"), ("name", "text"), *_EXPIRY, ("limits", "text"))
    ),
    Plain(
        "device",
        (
            *_REGISTRATION,
            ("address", "text"),
            ("registered_us", "bigint"),
            ("generation", "bigint"),
            ("last_success_ms", "bigint"),
            ("complaint", "text"),
        ),
    ),
    Plain("topic", (("provider", "text"), ("account", "text"), ("name", "text"), ("reached_ms", "bigint"))),
    Plain(
        "removal",
        (
            *_REGISTRATION,
            ("account", "text"),
            ("device", "text"),
            ("removed_ms", "bigint"),
            ("reason", "text"),
            ("quarantined", "bool"),
            ("for_topic", "bool"),
        ),
    ),
    Plain(
        "audit",
        (("chain", "text"), ("number", "bigint"), ("at_ms", "bigint"), ("text", "bytea"), ("hash", "bytea")),
    ),
    Plain(
        "audit_chain",
        (
            ("name", "text"),
            ("anchor_number", "bigint"),
            ("anchor_hash", "bytea"),
            ("head_number", "bigint"),
            ("head_hash", "bytea"),
        ),
    ),
    Plain("position", (("name", "text"), ("value", "bigint"))),
    Plain(
        "job",
        (
            ("id", "text"),
            ("kind", "text"),
            ("arguments", "bytea"),
            ("state", "text"),
            ("created_ms", "bigint"),
            ("changed_ms", "bigint"),
            ("position", "text"),
            ("done", "bigint"),
            ("skipped", "bigint"),
            ("total", "bigint"),
            ("error", "text"),
        ),
    ),
)

POSITIONS: Final = "position"
"""How far sources were taken (`ports.Positions`): each engine has them among its own notes."""
TRIED: Final = "events that were tried"
UNTRIED: Final = "events that wait untried"
"""They come last: what nobody has tried is read in order, and nothing before it has to be looked at."""
PARTS: Final = (*(plain.table for plain in PLAIN), TRIED, UNTRIED)
"""Everything that is copied, in this order."""


class EventRow(Struct, frozen=True):
    """An event with all that belongs to it."""

    id: EventId
    owner: UserId
    message: str
    urgent: bool
    accepted_ms: int
    expires_ms: int
    size: int
    digest: bytes
    """Keyed (`digests.py`); empty where it is forgotten."""
    body: bytes
    """Encrypted; empty where the content is not needed any more."""
    content_key: int | None
    attempts: str | None
    """A JSON array; None where nobody has tried it."""
    round: int
    dead: bool
    """A device ended in a dead letter, and that was neither replayed nor discarded."""
    settled_ms: int | None
    """None where it waits for a device."""
    parked: list[tuple[str, int, int, int, str]]
    """Lane, due time, end of the lifetime (Unix milliseconds), tries, and targets (a JSON array)."""

    @property
    def held_bytes(self) -> int:
        return len(self.body) + len(self.attempts or "") + sum(len(one[4]) for one in self.parked)


class Checksum:
    """How many rows, and a sum of their hashes: the order of the rows does not count."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, rows: Iterable[Any]) -> None:
        for row in rows:
            digest = blake2b(_encode(row), digest_size=16).digest()
            self._sum = (self._sum + int.from_bytes(digest, "big")) % _MODULUS
            self.rows += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checksum) and (self.rows, self._sum) == (other.rows, other._sum)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self.rows} rows, checksum {self._sum:032x}"
