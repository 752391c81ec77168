"""The statements of the queue, each function one job on the writer's (or the reader's) connection.

Many rows are written with one statement and read as one: `database.py` says why.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.events import URGENT, Event, EventId, UserId, digest
from tocsin.store.ports import (
    DEAD_LETTER,
    Attempt,
    EventIdConflict,
    EventRecord,
    Item,
    NewEvent,
    Parked,
    Settlement,
    State,
)
from tocsin.store.sqlite import claim_sql, rows
from tocsin.store.sqlite.clock import LONGEST_DELAY_MS

_INSERT = "INSERT INTO event(id, owner, message, urgent, accepted_ms, expires_ms, size, digest, body) VALUES {rows}"
# An event without a digest has an id of tocsin's own: it is known by its body, for as long as that is kept.
_KNOWN = (
    "WITH wanted(id) AS (VALUES {rows}) "
    "SELECT json_group_array(json_array(event.id, coalesce(digest, ''), iif(digest IS NULL, body, NULL))) "
    "FROM wanted CROSS JOIN event ON event.id = wanted.id"
)
_NEXT_LANE = "SELECT min(lane) FROM parked INDEXED BY parked_due WHERE claimed = 0 AND lane > ?"
_SETTLE = """WITH settled(seq, waiting, dead, attempts) AS (VALUES {rows})
    UPDATE event SET
        waiting = event.waiting + settled.waiting,
        dead = max(event.dead, settled.dead),
        state = iif(event.waiting + settled.waiting > 0, 1, iif(max(event.dead, settled.dead), 3, 2)),
        attempts = iif(event.attempts IS NULL, settled.attempts,
                       iif(settled.attempts IS NULL, event.attempts, event.attempts || ',' || settled.attempts)),
        body = iif(event.waiting + settled.waiting > 0 OR max(event.dead, settled.dead), event.body, NULL)
    FROM settled WHERE event.seq = settled.seq"""
_PARK = "INSERT INTO parked(seq, lane, urgent, due_ms, expires_ms, tries, targets) VALUES {rows}"
_UNPARK = "DELETE FROM parked WHERE id IN (VALUES {rows})"
_WAITING = (
    "WITH wanted(seq) AS (VALUES {rows}) SELECT json_group_array(event.seq) "
    "FROM wanted CROSS JOIN event ON event.seq = wanted.seq WHERE event.waiting > 0"
)
_BRING_FORWARD = (
    "UPDATE parked SET due_ms = min(due_ms - ?1, ?2) WHERE id > ?3 AND id <= ?4 AND claimed = 0 AND due_ms > ?5"
)
_REVIVED = "SELECT coalesce((SELECT number FROM housekeeping WHERE name = ?), 0)"

BRING_FORWARD_ROWS: Final = 5000

_decode_known = msgspec.json.Decoder(list[tuple[str, str, str | None]]).decode
_decode_seqs = msgspec.json.Decoder(list[int]).decode
_decode_targets = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_attempts = msgspec.json.Decoder(list[Attempt]).decode
_encode = msgspec.json.Encoder().encode


class Append:
    """One producer's batch on its way into the next commit."""

    __slots__ = ("counted", "error", "events", "seqs", "size_bytes")

    def __init__(self, events: Sequence[NewEvent], size_bytes: int, counted: tuple[int, int]) -> None:
        self.events = events
        self.size_bytes = size_bytes
        self.counted = counted
        """What the backlog was told to expect of it: events and bytes."""
        self.seqs: list[tuple[int, Event]] = []
        self.error: Exception | None = None


class Seen(Struct, frozen=True):
    """What whoever holds parts of the queue in memory has to know of the file."""

    newest: int
    revived_events: int
    revived_bytes: int
    due: dict[str, int]


class TakenOver(Struct, frozen=True):
    seen: Seen
    events: int
    size_bytes: int
    cursor: int
    """Every fresh event comes after it."""
    newest_accepted_ms: int


# -- the file as a whole -----------------------------------------------------------------------------------------------


def take_over(driver: sqlite3.Connection) -> TakenOver:
    """Give back what a dead process had claimed, and count the backlog."""
    driver.execute("UPDATE parked SET claimed = 0 WHERE claimed = 1")
    fresh, fresh_size = driver.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM event INDEXED BY event_fresh WHERE state = 0"
    ).fetchone()
    waiting, waiting_size = driver.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM event WHERE seq IN (SELECT DISTINCT seq FROM parked)"
    ).fetchone()
    (oldest,) = driver.execute(
        "SELECT min(s) FROM (SELECT min(seq) s FROM event WHERE state = 0 AND urgent = 0 UNION ALL"
        " SELECT min(seq) FROM event WHERE state = 0 AND urgent = 1)"
    ).fetchone()
    newest = driver.execute("SELECT accepted_ms FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    seen = look(driver)
    cursor = seen.newest if oldest is None else oldest - 1
    return TakenOver(seen, fresh + waiting, fresh_size + waiting_size, cursor, 0 if newest is None else newest[0])


def look(driver: sqlite3.Connection) -> Seen:
    (newest,) = driver.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()
    events, size = (driver.execute(_REVIVED, (name,)).fetchone()[0] for name in ("revived_events", "revived_bytes"))
    due: dict[str, int] = {}
    lane = ""
    while (lane := driver.execute(_NEXT_LANE, (lane,)).fetchone()[0]) is not None:
        due[lane] = claim_sql.earliest(driver, lane) or 0
    if (unnamed := claim_sql.earliest(driver, "")) is not None:
        due[""] = unnamed
    return Seen(newest, events, size, due)


def count(driver: sqlite3.Connection, ranges: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """How many events were appended under these numbers, and their size; whatever has become of them since."""
    events = size = 0
    for first, last in ranges:
        more, more_size = driver.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM event WHERE seq BETWEEN ? AND ?", (first, last)
        ).fetchone()
        events, size = events + more, size + more_size
    return events, size


def newest_parked(driver: sqlite3.Connection) -> int:
    newest: int
    (newest,) = driver.execute("SELECT coalesce(max(id), 0) FROM parked").fetchone()
    return newest


def bring_forward(driver: sqlite3.Connection, by_ms: int, after: int, last: int, now_ms: int) -> int:
    """Re-judge the due times of some thousand parked rows after `after`; returns where to go on."""
    row = driver.execute(
        "SELECT max(id) FROM (SELECT id FROM parked WHERE id > ? ORDER BY id LIMIT ?)", (after, BRING_FORWARD_ROWS)
    ).fetchone()
    until = last if row[0] is None else min(last, row[0])
    driver.execute(_BRING_FORWARD, (by_ms, now_ms + LONGEST_DELAY_MS, after, until, now_ms))
    return until


# -- append ------------------------------------------------------------------------------------------------------------


def insert(driver: sqlite3.Connection, appends: Sequence[Append]) -> None:
    """Insert the batches of several producers; one whose `event_id` is in conflict is left out whole."""
    known = known_ids(driver, [new.event.id for append in appends for new in append.events if new.digest is not None])
    values: list[tuple[Any, ...]] = []
    inserted: list[tuple[Append, list[Event]]] = []
    for append in appends:
        try:
            events = _unknown(append.events, known)
        except EventIdConflict as conflict:
            append.error = conflict
            continue
        inserted.append((append, [new.event for new in events]))
        for new in events:
            event = new.event
            values.append(
                (
                    event.id,
                    event.owner,
                    event.message,
                    1 if event.message in URGENT else 0,
                    event.accepted_ms,
                    event.expires_ms,
                    len(event.body),
                    new.digest,
                    event.body.decode(),
                )
            )
    if not values:
        return
    rows.execute(driver, _INSERT, values)
    (last,) = driver.execute("SELECT last_insert_rowid()").fetchone()
    seq = last - len(values) + 1
    for append, fresh in inserted:
        append.seqs = list(zip(range(seq, seq + len(fresh)), fresh, strict=True))
        seq += len(fresh)


def known_ids(driver: sqlite3.Connection, given: Sequence[EventId]) -> dict[str, str]:
    """Those of the ids that are on record, with what their content is known by."""
    known: dict[str, str] = {}
    for text in rows.fetch_json(driver, _KNOWN, given):
        for id, stored, body in _decode_known(text):
            known[id] = stored if body is None else digest(body.encode())
    return known


def _unknown(events: Sequence[NewEvent], known: dict[str, str]) -> Sequence[NewEvent]:
    """Those that are not on record yet; `known` (id to digest) learns them once the whole batch is good."""
    learned: dict[str, str] = {}
    fresh = []
    for index, new in enumerate(events):
        if new.digest is None:
            fresh.append(new)
            continue
        before = learned.get(new.event.id)
        if before is None:
            before = known.get(new.event.id)
        if before is None:
            learned[new.event.id] = new.digest
            fresh.append(new)
        elif before != new.digest:
            raise EventIdConflict(index)
    known.update(learned)
    return fresh


def first_known(driver: sqlite3.Connection, append: Append) -> int:
    """The index of the first event whose id is on record, or twice in the batch."""
    before: set[str] = set()
    for index, new in enumerate(append.events):
        if new.event.id in before or driver.execute("SELECT 1 FROM event WHERE id = ?", (new.event.id,)).fetchone():
            return index
        before.add(new.event.id)
    return 0


# -- settle ------------------------------------------------------------------------------------------------------------


def settle(driver: sqlite3.Connection, settlements: Sequence[Settlement], now_ms: int) -> set[int]:
    """Record and park; returns the events that have no device left to wait for."""
    latest_due = now_ms + LONGEST_DELAY_MS
    by_seq: dict[int, list[Any]] = {}
    park: list[tuple[Any, ...]] = []
    unpark: list[tuple[int]] = []
    uncertain: set[int] = set()
    for settlement in settlements:
        item = settlement.item
        waiting = len(settlement.parked)
        if item.parked_id is not None:
            unpark.append((item.parked_id,))
            waiting -= 1
            uncertain.add(item.seq)
        dead = any(attempt.result in DEAD_LETTER for attempt in settlement.attempts)
        attempts = _encode(settlement.attempts)[1:-1].decode() or None
        row = by_seq.get(item.seq)
        if row is None:
            by_seq[item.seq] = [item.seq, waiting, int(dead), attempts]
        else:
            row[1] += waiting
            row[2] = max(row[2], int(dead))
            row[3] = ",".join(part for part in (row[3], attempts) if part) or None
        if settlement.parked:
            park += _parked_rows(item, settlement.parked, latest_due)
    rows.execute(driver, _UNPARK, unpark)
    rows.execute(driver, _SETTLE, list(by_seq.values()))
    rows.execute(driver, _PARK, park)
    uncertain |= {seq for seq, row in by_seq.items() if row[1] > 0}
    still: set[int] = set()
    for text in rows.fetch_json(driver, _WAITING, list(uncertain)):
        still.update(_decode_seqs(text))
    return set(by_seq) - still


def _parked_rows(item: Item, parked: Sequence[Parked], latest_due: int) -> list[tuple[Any, ...]]:
    event = item.event
    urgent = int(event.urgent)
    return [
        (
            item.seq,
            one.lane,
            urgent,
            min(one.due_ms, latest_due),
            event.expires_ms,
            one.tries,
            _encode(one.targets).decode(),
        )
        for one in parked
    ]


def park(driver: sqlite3.Connection, item: Item, parked: Sequence[Parked], now_ms: int) -> None:
    rows.execute(driver, _PARK, _parked_rows(item, parked, now_ms + LONGEST_DELAY_MS))


# -- what is known -----------------------------------------------------------------------------------------------------


def record(driver: sqlite3.Connection, event_id: EventId) -> EventRecord | None:
    row = driver.execute(
        "SELECT seq, owner, message, accepted_ms, expires_ms, body, state, attempts FROM event WHERE id = ?",
        (event_id,),
    ).fetchone()
    if row is None:
        return None
    seq, owner, message, accepted, expires, body, state, attempts = row
    waiting = driver.execute(
        "SELECT lane, due_ms, tries, targets FROM parked WHERE seq = ? ORDER BY due_ms", (seq,)
    ).fetchall()
    event = Event(event_id, UserId(owner), message, accepted, expires, (body or "").encode())
    return EventRecord(
        event,
        State(state),
        attempts_of(attempts),
        [Parked(lane, due, tries, _decode_targets(targets)) for lane, due, tries, targets in waiting],
    )


def attempts_of(text: str | None) -> list[Attempt]:
    return _decode_attempts(f"[{text or ''}]")


def wake(driver: sqlite3.Connection, lanes: Sequence[str], now_ms: int) -> None:
    """Make what is parked for these lanes due now."""
    for lane in lanes:
        driver.execute("UPDATE parked SET due_ms = ?1 WHERE claimed = 0 AND lane = ?2 AND due_ms > ?1", (now_ms, lane))
