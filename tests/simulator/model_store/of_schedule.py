"""What is parked: what is due of a lane, what has expired, what is woken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tests.simulator.model_store.of_events import event_at, place
from tests.simulator.model_store.rows import Row
from tests.simulator.model_store.transactions import Transaction
from tests.simulator.model_store.vocabulary import Rows, does
from tocsin.store.postgres import due_sql

_ITEM = "id stream xid seq day lane tries round targets expires_ms event_id owner message accepted_ms body content_key"


def _of_streams(t: Transaction, streams: Iterable[int], lane: str | None = None) -> list[Row]:
    parked = t.database.parked
    if lane is None:
        return [row for stream in streams for row in t.where(parked, ("stream",), stream)]
    return [row for stream in streams for row in t.where(parked, ("stream", "lane"), (stream, lane))]


def _with_events(t: Transaction, rows: Sequence[Row], size_bytes: int) -> Rows:
    """Of as many rows as hold the bytes asked for together."""
    total, found = 0, []
    for row in rows:
        if total >= size_bytes:
            break
        total += row.size
        event = t.get(t.database.kept, place(row)) or event_at(t, row.day, place(row))
        parked = (row.id, *place(row), row.day, row.lane, row.tries, row.round, row.targets, row.expires_ms)
        content: tuple[Any, ...] = (None,) * 6
        if event is not None:
            content = (event.id, event.owner, event.message, event.accepted_ms, event.body, event.content_key)
        found.append((*parked, *content))
    return found


@does(due_sql._DUE, names=_ITEM)
def due(
    t: Transaction,
    streams: Sequence[int],
    lane: str,
    now_ms: int,
    upto: int,
    claimed: Sequence[int],
    limit: int,
    size_bytes: int,
) -> Rows:
    out = set(claimed)
    rows = [
        row for row in _of_streams(t, streams, lane) if (row.due_ms <= now_ms or row.id <= upto) and row.id not in out
    ]
    rows.sort(key=lambda row: (row.due_ms, row.id))
    return _with_events(t, rows[:limit], size_bytes)


@does(due_sql._EXPIRED, names=_ITEM)
def expired(
    t: Transaction, streams: Sequence[int], now_ms: int, claimed: Sequence[int], limit: int, size_bytes: int
) -> Rows:
    out = set(claimed)
    rows = [row for row in _of_streams(t, streams) if row.expires_ms <= now_ms and row.id not in out]
    rows.sort(key=lambda row: row.expires_ms)
    return _with_events(t, sorted(rows[:limit], key=lambda row: (row.due_ms, row.id)), size_bytes)


@does(due_sql._EARLIEST)
def earliest(t: Transaction, streams: Sequence[int], lane: str, claimed: Sequence[int]) -> Rows:
    out = set(claimed)
    return [(min((row.due_ms for row in _of_streams(t, streams, lane) if row.id not in out), default=None),)]


@does(due_sql._OVERVIEW)
def overview(t: Transaction, streams: Sequence[int], claimed: Sequence[int]) -> Rows:
    out, of_lane = set(claimed), dict[str, list[Row]]()
    for row in _of_streams(t, streams):
        if row.id not in out:
            of_lane.setdefault(row.lane, []).append(row)
    found = []
    for lane, rows in of_lane.items():
        woken = t.get(t.database.woken, lane)
        upto = None if woken is None else woken.upto
        any_woken = upto is not None and any(row.id <= upto for row in rows)
        found.append((lane, min(row.due_ms for row in rows), any_woken, upto))
    return found


def _newest(t: Transaction) -> int:
    return max((row.id for row in t.all(t.database.parked)), default=0)


@does(due_sql._WAKE)
def wake(t: Transaction, lanes: Sequence[str]) -> Rows:
    newest, woken = _newest(t), []
    for lane in lanes:
        row = t.get(t.database.woken, lane)
        upto = newest if row is None else max(row.upto, newest)
        t.put(t.database.woken, lane, {"lane": lane, "upto": newest}, {"upto": upto})
        woken.append((lane, upto))
    return woken


@does(due_sql._NEWEST)
def newest(t: Transaction) -> Rows:
    return [(_newest(t),)]


@does(due_sql._BRING_FORWARD)
def bring_forward(
    t: Transaction,
    by_ms: int,
    latest_ms: int,
    streams: Sequence[int],
    after: int,
    last: int,
    claimed: Sequence[int],
    now_ms: int,
) -> Rows:
    out = set(claimed)
    rows = [row for row in _of_streams(t, streams) if after < row.id <= last and row.id not in out]
    rows = sorted([row for row in rows if row.due_ms > now_ms], key=lambda row: row.id)[:5000]
    for row in rows:
        t.update(t.database.parked, row, due_ms=min(row.due_ms - by_ms, latest_ms))
    return [(row.id,) for row in rows]
