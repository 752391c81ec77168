"""The statements of `settle`, each function one job on the writer's connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tocsin.store.records import DEAD_LETTER, Item, Parked, Settlement
from tocsin.store.sqlite import rows
from tocsin.store.sqlite.leases import FileLease
from tocsin.store.states import after_settlement

LONGEST_DELAY_MS: Final = 28 * 24 * 3600 * 1000
"""No delivery is parked for longer, whatever its due time says: no event lives longer by default."""

_LEFT: Final = "event.waiting + settled.waiting > 0"
_DEAD: Final = "max(event.dead, settled.dead)"
_SETTLE: Final = f"""WITH settled(seq, waiting, dead, attempts) AS (VALUES {{rows}})
    UPDATE event SET
        waiting = event.waiting + settled.waiting,
        dead = {_DEAD},
        state = iif({_LEFT}, {int(after_settlement(waiting=True, dead=False))},
                    iif({_DEAD}, {int(after_settlement(waiting=False, dead=True))},
                        {int(after_settlement(waiting=False, dead=False))})),
        attempts = iif(event.attempts IS NULL, settled.attempts,
                       iif(settled.attempts IS NULL, event.attempts, event.attempts || ',' || settled.attempts)),
        body = iif({_LEFT} OR {_DEAD}, event.body, NULL),
        content_key_id = iif({_LEFT} OR {_DEAD}, event.content_key_id, NULL),
        settled_ms = iif({_LEFT}, NULL, ?)
    FROM settled WHERE event.seq = settled.seq"""
_PARK: Final = "INSERT INTO parked(seq, lane, urgent, due_ms, expires_ms, tries, targets) VALUES {rows}"
_UNPARK: Final = "DELETE FROM parked WHERE id IN (VALUES {rows})"
_WAITING: Final = (
    "WITH wanted(seq) AS (VALUES {rows}) SELECT json_group_array(event.seq) "
    "FROM wanted CROSS JOIN event ON event.seq = wanted.seq WHERE event.waiting > 0"
)
_EXISTING: Final = (
    "WITH wanted(seq) AS (VALUES {rows}) SELECT json_group_array(event.seq) "
    "FROM wanted CROSS JOIN event ON event.seq = wanted.seq"
)

_decode_seqs = msgspec.json.Decoder(list[int]).decode
_encode = msgspec.json.Encoder().encode


def settle(
    driver: sqlite3.Connection, settlements: Sequence[Settlement], leases: Sequence[FileLease], now_ms: int
) -> set[int]:
    """Record and park; returns the numbers of the events that have no device left to wait for.

    `leases` are those of the settled items. An event that is not there any more is passed over, and not returned.
    """
    latest_due = now_ms + LONGEST_DELAY_MS
    by_seq: dict[int, list[Any]] = {}
    parks: list[tuple[Any, ...]] = []
    unpark: list[tuple[int]] = []
    uncertain: set[int] = set()
    for settlement, lease in zip(settlements, leases, strict=True):
        waiting = len(settlement.parked)
        if lease.parked_id is not None:
            unpark.append((lease.parked_id,))
            waiting -= 1
            uncertain.add(lease.seq)
        dead = 0
        for attempt in settlement.attempts:
            if attempt.result in DEAD_LETTER:
                dead = 1
        attempts = _encode(settlement.attempts)[1:-1].decode() or None
        row = by_seq.get(lease.seq)
        if row is None:
            by_seq[lease.seq] = [lease.seq, waiting, dead, attempts]
        else:
            row[1] += waiting
            row[2] = max(row[2], dead)
            row[3] = ",".join(part for part in (row[3], attempts) if part) or None
        if settlement.parked:
            parks += _parked_rows(settlement.item, lease, settlement.parked, latest_due)
    rows.execute(driver, _UNPARK, unpark)
    if rows.execute(driver, _SETTLE, list(by_seq.values()), now_ms) < len(by_seq):
        # Their user was erased meanwhile: nothing of them is written.
        existing = _seqs(driver, _EXISTING, list(by_seq))
        parks = [row for row in parks if row[0] in existing]
        by_seq = {seq: row for seq, row in by_seq.items() if seq in existing}
    rows.execute(driver, _PARK, parks)
    uncertain |= {seq for seq, row in by_seq.items() if row[1] > 0}
    return set(by_seq) - _seqs(driver, _WAITING, list(uncertain))


def _seqs(driver: sqlite3.Connection, which: str, wanted: Sequence[int]) -> set[int]:
    found: set[int] = set()
    for text in rows.fetch_json(driver, which, wanted):
        found.update(_decode_seqs(text))
    return found


def park(driver: sqlite3.Connection, item: Item, lease: FileLease, parked: Sequence[Parked], now_ms: int) -> None:
    rows.execute(driver, _PARK, _parked_rows(item, lease, parked, now_ms + LONGEST_DELAY_MS))


def _parked_rows(item: Item, lease: FileLease, parked: Sequence[Parked], latest_due: int) -> list[tuple[Any, ...]]:
    event = item.event
    urgent = int(event.urgent)
    return [
        (
            lease.seq,
            one.lane,
            urgent,
            min(one.due_ms, latest_due),
            event.expires_ms,
            one.tries,
            _encode(one.targets).decode(),
        )
        for one in parked
    ]
