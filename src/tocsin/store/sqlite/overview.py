"""What whoever holds parts of the queue in memory has to know of the file as a whole."""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from tocsin.store.sqlite import claim_sql
from tocsin.store.sqlite.backlog import count_waiting

_NEXT_LANE = "SELECT min(lane) FROM parked INDEXED BY parked_due WHERE claimed = 0 AND lane > ?"
_TOTAL = "SELECT coalesce((SELECT number FROM housekeeping WHERE name = ?), 0)"
_TOTALS = ("revived_events", "revived_bytes", "erased_events", "erased_bytes")


class Overview(Struct, frozen=True):
    """The file at one moment. The totals tell how many dead letters were ever replayed, and how many events that waited
    were ever erased, by whichever process."""

    newest: int
    """The number of the newest event."""
    revived_events: int
    revived_bytes: int
    erased_events: int
    erased_bytes: int
    due: dict[str, int]
    """The lanes with parked deliveries, and when the first of each is due."""


class TakenOver(Struct, frozen=True):
    """What the server before left behind."""

    overview: Overview
    events: int
    size_bytes: int
    cursor: int
    """Every fresh event comes after it."""
    newest_accepted_ms: int


def look(driver: sqlite3.Connection) -> Overview:
    (newest,) = driver.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()
    revived, revived_bytes, erased, erased_bytes = (driver.execute(_TOTAL, (name,)).fetchone()[0] for name in _TOTALS)
    due: dict[str, int] = {}
    lane = ""
    while (lane := driver.execute(_NEXT_LANE, (lane,)).fetchone()[0]) is not None:
        due[lane] = claim_sql.earliest(driver, lane) or 0
    if (unnamed := claim_sql.earliest(driver, "")) is not None:
        due[""] = unnamed
    return Overview(newest, revived, revived_bytes, erased, erased_bytes, due)


def take_over(driver: sqlite3.Connection) -> TakenOver:
    """Give back what a dead process had claimed, and count the backlog."""
    driver.execute("UPDATE parked SET claimed = 0 WHERE claimed = 1")
    events, size_bytes = count_waiting(driver)
    (oldest,) = driver.execute(
        "SELECT min(s) FROM (SELECT min(seq) s FROM event WHERE state = 0 AND urgent = 0 UNION ALL"
        " SELECT min(seq) FROM event WHERE state = 0 AND urgent = 1)"
    ).fetchone()
    newest = driver.execute("SELECT accepted_ms FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    overview = look(driver)
    cursor = overview.newest if oldest is None else oldest - 1
    return TakenOver(overview, events, size_bytes, cursor, 0 if newest is None else newest[0])
