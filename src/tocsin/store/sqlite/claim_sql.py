"""The statements of `claim`, each function one job on the writer's (or the reader's) connection.

What is claimed at a time is bounded by number and by size.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

import msgspec

from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.ports import Item
from tocsin.store.sqlite import rows

CLAIM_BYTES: Final = 8 * 1024 * 1024
"""How much content is claimed at a time; always one event, however large it is."""
_LEAST_INLINE_BYTES: Final = 4096

# The bodies are there once `_cut` has seen to it.
_FreshRow = tuple[int, str, str, str, int, int, Any]
_DueRow = tuple[int, str, str, str, int, int, Any, int, int, str, str]
_Row = TypeVar("_Row", bound=tuple[Any, ...])

# Large bodies stay out of the JSON: SQLite bounds a string, and `_cut` what is claimed at a time. A running sum in the
# statement would do the same, and cost every claim of small ones a third more.
_FRESH = """SELECT json_group_array(json_array(seq, id, owner, message, accepted_ms, expires_ms, body)),
        max(size), sum(size) FROM (
    SELECT seq, id, owner, message, accepted_ms, expires_ms, size, iif(size > ?1, NULL, body) AS body FROM event
    WHERE state = 0 AND urgent = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4)"""
_PARKED_ROW = """SELECT json_group_array(json_array(
        seq, event.id, owner, message, accepted_ms, event.expires_ms, iif(size > ?1, NULL, body),
        parked_id, tries, targets, lane)), max(size), sum(size)"""
_DUE = f"""{_PARKED_ROW} FROM (
    SELECT id AS parked_id, seq, tries, targets, lane FROM parked INDEXED BY parked_due
    WHERE claimed = 0 AND lane = ?2 AND urgent = ?3 AND due_ms <= ?4 ORDER BY due_ms LIMIT ?5
    ) JOIN event USING (seq)"""
_EXPIRED = f"""{_PARKED_ROW} FROM (
    SELECT id AS parked_id, seq, tries, targets, lane FROM parked WHERE claimed = 0 AND expires_ms <= ?2 LIMIT ?3
    ) JOIN event USING (seq)"""
_EARLIEST = "SELECT min(due_ms) FROM parked INDEXED BY parked_due WHERE claimed = 0 AND lane = ? AND urgent = ?"
_MARK_CLAIMED = "UPDATE parked SET claimed = 1 WHERE id IN (VALUES {rows})"

_decode_fresh = msgspec.json.Decoder(list[_FreshRow]).decode
_decode_due = msgspec.json.Decoder(list[_DueRow]).decode
_decode_targets = msgspec.json.Decoder(tuple[str, ...]).decode


def fresh(driver: sqlite3.Connection, urgent: int, cursor: int, limit: int) -> tuple[list[tuple[int, Event]], bool]:
    """What is fresh after the cursor, and whether there may be more of it."""
    inline = _inline_bytes(limit)
    text, largest, total = driver.execute(_FRESH, (inline, urgent, cursor, limit)).fetchone()
    found = _decode_fresh(text)
    more = len(found) == limit
    if found and (largest > inline or total > CLAIM_BYTES):
        whole = len(found)
        found = _cut(driver, found)
        more = more or len(found) < whole
    return [
        (seq, Event(EventId(id), UserId(owner), message, accepted, expires, body.encode()))
        for seq, id, owner, message, accepted, expires, body in found
    ], more


def _inline_bytes(limit: int) -> int:
    """Up to which size the bodies of so many events come together."""
    return max(_LEAST_INLINE_BYTES, CLAIM_BYTES // max(limit, 1))


def _cut(driver: sqlite3.Connection, found: list[_Row]) -> list[_Row]:
    """As many as hold CLAIM_BYTES together, with the bodies that were too large to come with the others."""
    kept: list[_Row] = []
    size = 0
    for row in found:
        body = row[6]
        if body is None:
            (body,) = driver.execute("SELECT body FROM event WHERE seq = ?", (row[0],)).fetchone()
            kept.append(cast(_Row, (*row[:6], body, *row[7:])))
        else:
            kept.append(row)
        size += len(body)
        if size >= CLAIM_BYTES:
            break
    return kept


def claim_due(
    driver: sqlite3.Connection, lanes: Mapping[str, int], now_ms: int, turn: int
) -> tuple[list[Item], dict[str, int | None]]:
    """Mark what is due as claimed, and say when the rest of each lane is."""
    found: list[_DueRow] = []
    left = CLAIM_BYTES
    for lane, room in lanes.items():
        # One at least of each lane, lest a lane of large events keep the others waiting.
        own = _due(driver, lane, room if left > 0 else 1, now_ms, turn)
        left -= sum([len(row[6]) for row in own])
        found += own
    rows.execute(driver, _MARK_CLAIMED, [(row[7],) for row in found])
    return [_parked_item(row) for row in found], {lane: earliest(driver, lane) for lane in lanes}


def _due(driver: sqlite3.Connection, lane: str, room: int, now_ms: int, turn: int) -> list[_DueRow]:
    """Urgent first; where they take all the room, a quarter of it is kept for the others."""
    urgent = _fetch_parked(driver, _DUE, room, lane, 1, now_ms)
    bulk_room = max(room - len(urgent), (room + turn) // 4)
    bulk = _fetch_parked(driver, _DUE, bulk_room, lane, 0, now_ms)
    return urgent[: room - len(bulk)] + bulk


def claim_expired(driver: sqlite3.Connection, now_ms: int, limit: int) -> list[Item]:
    found = _fetch_parked(driver, _EXPIRED, limit, now_ms)
    rows.execute(driver, _MARK_CLAIMED, [(row[7],) for row in found])
    return [_parked_item(row) for row in found]


def _fetch_parked(driver: sqlite3.Connection, statement: str, limit: int, *which: str | int) -> list[_DueRow]:
    inline = _inline_bytes(limit)
    text, largest, total = driver.execute(statement, (inline, *which, limit)).fetchone()
    found = _decode_due(text)
    return _cut(driver, found) if found and (largest > inline or total > CLAIM_BYTES) else found


def _parked_item(row: _DueRow) -> Item:
    seq, id, owner, message, accepted, expires, body, parked_id, tries, targets, lane = row
    event = Event(EventId(id), UserId(owner), message, accepted, expires, body.encode())
    return Item(event, seq, 0, parked_id, lane, _decode_targets(targets), tries)


def earliest(driver: sqlite3.Connection, lane: str) -> int | None:
    found = [driver.execute(_EARLIEST, (lane, urgent)).fetchone()[0] for urgent in (1, 0)]
    return min((due for due in found if due is not None), default=None)
