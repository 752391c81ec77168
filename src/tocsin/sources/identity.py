"""The ids of events that come without one: derived from their message, so that a redelivery is the same event."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from tocsin.domain.events import EventId


def derived_ids(message: str, count: int) -> Sequence[EventId]:
    """An id for each line of a message, UUIDs of version 8 (RFC 9562): the same ones each time."""
    return [_derived(f"{message}\0{line}") for line in range(count)]


def by_message_id(stream: str, message_id: str) -> str:
    """A message that its producer named (`Nats-Msg-Id`): the same in whatever place of the stream."""
    return f"id\0{stream}\0{message_id}"


def by_sequence(stream: str, created: str, sequence: int) -> str:
    """Any other message, by its place. A stream that is made anew counts from 1 again: its creation tells it apart."""
    return f"sequence\0{stream}\0{created}\0{sequence}"


def _derived(text: str) -> EventId:
    digest = blake2b(text.encode(), digest_size=16).hexdigest()
    return EventId(f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-a{digest[17:20]}-{digest[20:]}")
