"""The statements of claims, each function one job on the writer's (or the reader's) connection.

What is claimed at a time is bounded by number and by size.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from tocsin.domain.events import Event, EventId, UserId
from tocsin.domain.urgency import reserved
from tocsin.store.envelope import parted
from tocsin.store.records import Item
from tocsin.store.sqlite import rows
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.leases import FileLease

CLAIM_BYTES: Final = 8 * 1024 * 1024
"""How much content is claimed at a time; always one event, however large it is."""
_LEAST_INLINE_BYTES: Final = 4096
_ROWS_AT_ONCE: Final = rows.SIZES[0]

_FreshRow = tuple[int, str, str, str, int, int, str | None, int | None]
_DueRow = tuple[int, str, str, str, int, int, str | None, int | None, int, int, int, str, str]
_Row = TypeVar("_Row", bound=tuple[Any, ...])
_ID: Final = 1
_BODY: Final = 6
_KEY: Final = 7

# Bodies are bytes, which JSON cannot hold: they come in hex. Large ones stay out: SQLite bounds a string, and
# `_with_bodies` what is claimed at a time. A running sum in the statement would do the same, and cost every claim of
# small ones a third more.
_FRESH = """SELECT json_group_array(json_array(seq, id, owner, message, accepted_ms, expires_ms, body, key)),
        max(size), sum(size) FROM (
    SELECT seq, id, owner, message, accepted_ms, expires_ms, size, iif(size > ?1, NULL, hex(body)) AS body,
        content_key_id AS key FROM event
    WHERE state = 0 AND urgent = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4)"""
_PARKED_ROW = """SELECT json_group_array(json_array(
        seq, event.id, owner, message, accepted_ms, event.expires_ms, iif(size > ?1, NULL, hex(body)),
        content_key_id, parked_id, tries, round, targets, lane)), max(size), sum(size)"""
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


def fresh(
    driver: sqlite3.Connection, contents: Contents, urgent: int, cursor: int, limit: int
) -> tuple[list[tuple[int, Event]], bool]:
    """What is fresh after the cursor, and whether there may be more of it."""
    found, bodies = _fetch(driver, contents, _FRESH, _decode_fresh, limit, urgent, cursor)
    return [
        (seq, Event(EventId(id), UserId(owner), message, accepted, expires, *parted(body)))
        for (seq, id, owner, message, accepted, expires, *_), body in zip(found, bodies, strict=False)
    ], len(found) == limit or len(bodies) < len(found)


def claim_due(
    driver: sqlite3.Connection,
    contents: Contents,
    lanes: Mapping[str, int],
    size_bytes: int,
    only: Mapping[str, bool],
    now_ms: int,
    turn: int,
) -> tuple[list[Item], dict[str, int | None]]:
    """Mark what is due as claimed, and say when the rest of each lane is. See `ports.Schedule.claim_due`."""
    items: list[Item] = []
    share = min(size_bytes, CLAIM_BYTES // len(lanes))
    for lane, room in lanes.items():
        of_lane = _DueOfALane(driver, contents, lane, now_ms, room, share)
        items += of_lane.claim(turn) if lane not in only else of_lane.claim_only(urgent=only[lane])
    return items, {lane: earliest(driver, lane) for lane in lanes}


def claim_expired(driver: sqlite3.Connection, contents: Contents, now_ms: int, limit: int) -> list[Item]:
    found = _fetch_parked(driver, contents, _EXPIRED, limit, now_ms)
    rows.execute(driver, _MARK_CLAIMED, [(parked_id,) for _, parked_id in found])
    return [item for item, _ in found]


def earliest(driver: sqlite3.Connection, lane: str) -> int | None:
    """When the first of a lane's parked deliveries is due; None where it has none."""
    found = [driver.execute(_EARLIEST, (lane, urgent)).fetchone()[0] for urgent in (1, 0)]
    return min((due for due in found if due is not None), default=None)


class _DueOfALane:
    """One claim of what is due of a lane: `room` targets and `size_bytes` of content are left to be taken."""

    def __init__(
        self, driver: sqlite3.Connection, contents: Contents, lane: str, now_ms: int, room: int, size_bytes: int
    ) -> None:
        self._driver = driver
        self._contents = contents
        self._lane = lane
        self._now_ms = now_ms
        self._room = room
        self._size_bytes = size_bytes
        self._nothing_yet = True

    def claim(self, turn: int) -> list[Item]:
        """Urgent first, but some room is reserved for the others: in every fourth turn for one that needs more."""
        room = self._room
        others = self._take(0, reserved(room, turn), whole=reserved(1, turn) > 0)
        urgent = self._take(1, room, whole=True)
        return urgent + others + self._take(0, room, whole=True)

    def claim_only(self, *, urgent: bool) -> list[Item]:
        return self._take(int(urgent), self._room, whole=True)

    def _take(self, urgent: int, most: int, *, whole: bool) -> list[Item]:
        """Up to `most` targets. `whole`: the first item of all is taken however many it has."""
        left, items = min(most, self._room), []
        while left > 0 and (self._size_bytes > 0 or self._nothing_yet):
            # A statement at a time, as a row may have a hundred targets: what is not taken was read for nothing.
            asked = min(left, _ROWS_AT_ONCE)
            found = _fetch_parked(self._driver, self._contents, _DUE, asked, self._lane, urgent, self._now_ms)
            taken: list[tuple[int]] = []
            for item, parked_id in found:
                assert item.targets is not None
                targets = len(item.targets)
                if (targets > left or self._size_bytes <= 0) and not (whole and self._nothing_yet):
                    break
                self._nothing_yet = False
                left -= targets
                self._room -= targets
                self._size_bytes -= len(item.event.body)
                items.append(item)
                taken.append((parked_id,))
            rows.execute(self._driver, _MARK_CLAIMED, taken)
            if len(taken) < asked:
                break
        return items


def _fetch_parked(
    driver: sqlite3.Connection, contents: Contents, statement: str, limit: int, *which: str | int
) -> list[tuple[Item, int]]:
    """Items with the ids of their parked rows."""
    found, bodies = _fetch(driver, contents, statement, _decode_due, limit, *which)
    items = []
    for row, body in zip(found, bodies, strict=False):
        seq, id, owner, message, accepted, expires, _, _, parked_id, tries, round, targets, lane = row
        event = Event(EventId(id), UserId(owner), message, accepted, expires, *parted(body))
        items.append((Item(event, FileLease(seq, parked_id), _decode_targets(targets), lane, tries, round), parked_id))
    return items


def _fetch(
    driver: sqlite3.Connection, contents: Contents, statement: str, decode: Any, limit: int, *which: str | int
) -> tuple[list[Any], list[bytes]]:
    """Up to `limit` rows, and the contents of the first of them: as many as hold CLAIM_BYTES together."""
    inline = max(_LEAST_INLINE_BYTES, CLAIM_BYTES // max(limit, 1))
    text, largest, total = driver.execute(statement, (inline, *which, limit)).fetchone()
    found = decode(text)
    if not found or (largest <= inline and total <= CLAIM_BYTES):
        bodies = [bytes.fromhex(row[_BODY]) for row in found]
    else:
        bodies = _with_bodies(driver, found)
    open = contents.open
    return found, [open(driver, row[_KEY], row[_ID], body) for row, body in zip(found, bodies, strict=False)]


def _with_bodies(driver: sqlite3.Connection, found: list[Any]) -> list[bytes]:
    bodies: list[bytes] = []
    size = 0
    for row in found:
        if row[_BODY] is not None:
            body = bytes.fromhex(row[_BODY])
        else:
            (body,) = driver.execute("SELECT CAST(body AS BLOB) FROM event WHERE seq = ?", (row[0],)).fetchone()
        bodies.append(body)
        size += len(body)
        if size >= CLAIM_BYTES:
            break
    return bodies
