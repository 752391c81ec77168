"""The audit log's entries, and the chain that they form: the hash of each covers its own text and the hash before it.

An entry is a JSON text, and its hash SHA-256 of the hash before it (32 bytes; of the first entry, zeros) and of that
text. What is pruned from the front leaves an anchor behind, the last number and hash that were removed: the rest of the
chain begins there. The hashes need no key, so that anybody can check an export. It also means that whoever may write
the whole store can write the whole chain anew: only an exported head shows that.

Every store keeps the texts as they are, and has this module make and check them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tocsin.domain.actors import Actor, ActorKind
from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import UserId

MAIN: Final = "main"
"""The name of a chain, unless the settings name another."""
UNREADABLE_USER: Final = "user_unreadable"
"""How a user is called whose pseudonym cannot be had, as a master key is missing. The change is made all the same."""
_SHOWN: Final = 8
_LONGEST: Final = 200

Detail = str | int | bool | list[str] | None


class Action(StrEnum):
    """What can be done that the audit log tells of."""

    KEY_CREATE = "key.create"
    KEY_REVOKE = "key.revoke"
    SESSION_CREATE = "session.create"
    SESSION_REVOKE = "session.revoke"
    CREDENTIAL_PUT = "credential.put"
    CREDENTIAL_REMOVE = "credential.remove"
    DEVICE_ADD = "device.add"
    DEVICE_DELETE = "device.delete"
    DEVICE_RESTORE = "device.restore"
    QUARANTINE_RELEASE = "quarantine.release"
    QUARANTINE_PURGE = "quarantine.purge"
    DEAD_LETTER_REPLAY = "deadletter.replay"
    DEAD_LETTER_DISCARD = "deadletter.discard"
    EVENT_TEST = "event.test"
    JOB_CREATE = "job.create"
    JOB_STOP = "job.stop"
    STORE_REKEY = "store.rekey"
    STORE_EXPORT_KEY = "store.export-key"
    STORE_RESTORE = "store.restore"
    STORE_MIGRATE = "store.migrate"
    STORE_GIVE_UP_KEY = "store.give-up-key"
    USER_ERASE = "user.erase"


class Change(Struct, frozen=True):
    """What was done, to what. It holds no secret and no whole device token; a user's id in `owner` alone."""

    action: Action
    subject: str = ""
    """The key, session, credential, device or job, by its id."""
    details: Mapping[str, Detail] = {}
    owner: UserId | None = None
    """The user whom it is about. The entry has the user's pseudonym (`store/pseudonyms.py`) as the detail `user`."""


class Entry(Struct, frozen=True):
    """One entry, as its text has it."""

    chain: str
    number: int
    """From 1, without gaps."""
    at_ms: int
    """The store's time, Unix milliseconds."""
    actor: Actor
    action: str
    """One of `Action`, unless a newer version has written it."""
    subject: str
    details: Mapping[str, Detail]


class Recorded(Struct, frozen=True):
    """An entry as a store keeps it."""

    number: int
    text: bytes
    hash: bytes


class Link(Struct, frozen=True):
    """A place in a chain: an entry's number and its hash."""

    number: int
    hash: bytes


START: Final = Link(0, bytes(32))
"""What is before the first entry."""


class Ends(Struct, frozen=True):
    """Where a chain begins and ends now."""

    chain: str
    anchor: Link
    """The last entry that was pruned; `START` where none was."""
    head: Link
    """The last entry."""


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Entry).decode


def named_by(pseudonym: Callable[[UserId], str], actor: Actor, change: Change) -> tuple[Actor, Change]:
    """Both with pseudonyms in the place of users' ids."""
    if actor.kind is ActorKind.USER:
        actor = replace(actor, id=pseudonym(UserId(actor.id)))
    if change.owner is not None:
        details = {**change.details, "user": pseudonym(change.owner)}
        change = Change(change.action, change.subject, details)
    return actor, change


def record(head: Link, chain: str, at_ms: int, actor: Actor, change: Change) -> tuple[Recorded, Link]:
    """The next entry of a chain whose last one is `head`, and the head that it makes. Both are as `named_by` says."""
    number = head.number + 1
    details = {name: _bounded(value) for name, value in change.details.items()}
    text = _encode(Entry(chain, number, at_ms, actor, change.action, _cut(change.subject), details))
    return Recorded(number, text, _hash(head.hash, text)), Link(number, _hash(head.hash, text))


DAMAGED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises where a text is not as it was written; UnicodeDecodeError is not one of msgspec's own."""


def read(recorded: Recorded) -> Entry:
    """Raises one of `DAMAGED` where the text was damaged."""
    return _decode(recorded.text)


def shown(recorded: Recorded) -> Entry:
    """An entry for whoever looks at the log; one whose text was damaged has the action `unreadable`."""
    try:
        return read(recorded)
    except DAMAGED:
        return Entry("", 0, 0, Actor(ActorKind.SYSTEM_USER, "", ""), "unreadable", "", {})


def shortened(token: DeviceToken) -> str:
    """How an entry names a device token: enough to find it by, and not enough to use it."""
    return token[:_SHOWN] + "…" if len(token) > 2 * _SHOWN else token[: len(token) // 2] + "…"


class ChainCheck:
    """Checks a chain whose entries are given one after the other; it ends at the first that does not fit."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._last = ends.anchor
        self.found: set[bytes] = {ends.anchor.hash} if ends.anchor != START else set()
        """The hashes that are in the chain so far."""
        self.broken = ""
        """Where and how the chain breaks, a sentence; empty while it holds."""
        self.checked = 0

    @property
    def next_number(self) -> int:
        return self._last.number + 1

    def add(self, recorded: Recorded) -> None:
        if self.broken:
            return
        number = self.next_number
        if recorded.number > number:
            self._breaks(number, f"is missing; entry {recorded.number} follows")
            return
        try:
            entry = read(recorded)
        except DAMAGED:
            self._breaks(number, "cannot be read")
            return
        if (entry.chain, entry.number) != (self._ends.chain, number) or recorded.hash != _hash(
            self._last.hash, recorded.text
        ):
            self._breaks(number, "is not what was written after the entries before it: it or one of those was changed")
        else:
            self._last = Link(number, recorded.hash)
            self.found.add(recorded.hash)
            self.checked += 1

    def end(self) -> None:
        """There are no more entries."""
        if not self.broken and self._last.number < self._ends.head.number:
            self._breaks(self.next_number, f"is missing, and the rest up to entry {self._ends.head.number}")
        elif not self.broken and self._last != self._ends.head:
            self._breaks(self._last.number, "is not the one that is noted as the last")

    def _breaks(self, number: int, how: str) -> None:
        self.broken = f"{self._ends.chain}: the chain breaks at entry {number}: it {how}"


def _hash(before: bytes, text: bytes) -> bytes:
    return sha256(before + text).digest()


def _bounded(value: Detail) -> Detail:
    match value:
        case str():
            return _cut(value)
        case list():
            return [_cut(one) for one in value]
        case _:
            return value


def _cut(text: str) -> str:
    """Names that operators give may be long, and arguments of commands may be no text."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
