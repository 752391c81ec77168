"""Tells in a conversation with PostgreSQL where a commit is answered (PostgreSQL documentation, "Message Formats").

Only as much is read as that takes, of unencrypted connections of asyncpg.
"""

from __future__ import annotations

from typing import Final

_LENGTH: Final = 4
_QUERY, _PARSE, _BIND, _READY = b"Q", b"P", b"B", b"Z"
_IDLE: Final = b"I"
_APPEND, _SETTLE = b"INSERT INTO event_id", b"INSERT INTO settlement"


class Conversation:
    """One connection. Both directions are fed as they come, in pieces of any size."""

    def __init__(self) -> None:
        self._from_client = _Messages(has_startup=True)
        self._from_server = _Messages(has_startup=False)
        self._kinds: dict[bytes, str] = {}
        """By name, the prepared statements that write what is of interest."""
        self._in_transaction: str | None = None
        self.pending: str | None = None
        """What is about to be committed: an `append`, a `settlement`, or another `change`."""
        self._is_idle = True

    def client_sends(self, data: bytes) -> None:
        for kind, body in self._from_client.feed(data):
            if kind == _PARSE:
                name, _, query = body.partition(b"\0")
                if found := _kind_of(query):
                    self._kinds[name] = found
                else:
                    self._kinds.pop(name, None)
            elif kind == _BIND:
                statement = body.partition(b"\0")[2].partition(b"\0")[0]
                if found := self._kinds.get(statement):
                    if self._is_idle:
                        self.pending = found
                    else:
                        self._in_transaction = found
            elif kind == _QUERY and body.upper().startswith(b"COMMIT"):
                self.pending = self._in_transaction or "change"

    def server_sends(self, data: bytes) -> bool:
        """Whether the answer to what is `pending` is complete with it."""
        answered = False
        for kind, body in self._from_server.feed(data):
            if kind != _READY:
                continue
            self._is_idle = body[:1] == _IDLE
            if self._is_idle:
                answered = answered or self.pending is not None
                self.pending = self._in_transaction = None
        return answered


class _Messages:
    """Cuts a stream into messages; of long ones the body may be cut short."""

    def __init__(self, *, has_startup: bool) -> None:
        self._is_startup = has_startup
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        self._buffer += data
        messages, at, buffer = [], 0, self._buffer
        while True:
            head = 0 if self._is_startup else 1
            if len(buffer) < at + head + _LENGTH:
                break
            end = at + head + int.from_bytes(buffer[at + head : at + head + _LENGTH])
            if len(buffer) < end:
                break
            if not self._is_startup:
                messages.append((bytes(buffer[at : at + 1]), bytes(buffer[at + 1 + _LENGTH : end])))
            self._is_startup = False
            at = end
        del buffer[:at]
        return messages


def _kind_of(query: bytes) -> str | None:
    if _APPEND in query:
        return "append"
    if _SETTLE in query:
        return "settlement"
    return None
