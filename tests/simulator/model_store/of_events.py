"""Events: how they are appended, read in order, settled, counted; what became of them, and dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any

import asyncpg

from tests.simulator.model_store.rows import Row
from tests.simulator.model_store.transactions import Transaction
from tests.simulator.model_store.vocabulary import Rows, does
from tocsin.store.postgres import append_sql, backlog, event_log, fresh, origin, places, queue, settle_sql
from tocsin.store.postgres.fresh import CLAIM_BYTES

Place = tuple[int, int, int]
_PLACE = ("stream", "xid", "seq")


def refuse_without_partition(t: Transaction, table: str, day: int) -> None:
    if day not in t.database.partitions[table]:
        raise asyncpg.CheckViolationError(f'no partition of relation "{table}" found for row')


def place(row: Row) -> Place:
    return row.stream, row.xid, row.seq


def settlements(t: Transaction, at: Place) -> list[Row]:
    """Of one event, in the order of their numbers."""
    return sorted(t.where(t.database.settlement, _PLACE, at), key=lambda row: row.number)


def is_settled(t: Transaction, at: Place) -> bool:
    return any(row.unit == 0 for row in t.where(t.database.settlement, _PLACE, at))


# -- append ------------------------------------------------------------------------------------------------------------


def insert_event(
    t: Transaction,
    day: int,
    stream: int,
    id: str | None,
    owner: str,
    message: str,
    accepted_ms: int,
    expires_ms: int,
    size: int,
    content_key: int | None,
    body: bytes,
) -> None:
    refuse_without_partition(t, "event", day)
    t.insert(
        t.database.event,
        day=day,
        stream=stream,
        xid=t.numbered(),
        seq=t.database.next_of("event"),
        id=id,
        owner=owner,
        message=message,
        accepted_ms=accepted_ms,
        expires_ms=expires_ms,
        size=size,
        content_key=content_key,
        body=body,
    )


@does(append_sql._INSERT)
def append(t: Transaction, day: int, *values: Any) -> Rows:
    *columns, key_id = values
    given = list(zip(*columns, strict=True))
    if any(not 0 <= one < 2**63 for times in columns[4:6] for one in times):
        raise asyncpg.DataError("value out of int64 range")
    number = t.numbered()
    for stream, id, *_, digest in sorted(given, key=lambda row: row[1]):
        t.insert(t.database.event_id, id=id, digest=digest, day=day, stream=stream, xid=number)
    for stream, id, owner, message, accepted, expires, size, body, _ in given:
        insert_event(t, day, stream, id, owner, message, accepted, expires, size, key_id, body)
    return [(number,)]


@does(append_sql._KNOWN)
def known_ids(t: Transaction, ids: Sequence[str]) -> Rows:
    rows = [t.get(t.database.event_id, id) for id in ids]
    return [(row.id, row.digest) for row in rows if row is not None]


@does(append_sql._REPEATED)
def repeated(t: Transaction) -> Rows:
    t.numbered()
    return ()


# -- read in order -----------------------------------------------------------------------------------------------------


@does(
    fresh._READ, names="day stream xid seq id owner message accepted_ms expires_ms content_key body is_in_order found"
)
def read(
    t: Transaction,
    streams: Sequence[int],
    xids: Sequence[int],
    seqs: Sequence[int],
    untils: Sequence[int],
    first_day: int,
    last_day: int,
    of_a_stream: int,
    limit: int,
) -> Rows:
    following: list[Row] = []
    for stream, xid, seq, until in zip(streams, xids, seqs, untils, strict=True):
        found = 0
        for row in t.database.event.after(stream, xid, seq):
            if found >= of_a_stream:
                break
            if not t.sees(row) or not first_day <= row.day <= last_day:
                continue
            if row.xid < until and is_settled(t, place(row)):
                continue
            following.append(row)
            found += 1
    following.sort(key=lambda row: (row.xid, row.seq))
    following = following[:limit]
    oldest, total, rows = t.oldest_running(), 0, []
    for row in following:
        if total >= CLAIM_BYTES:
            break
        total += row.size
        event = (row.day, row.stream, row.xid, row.seq, row.id, row.owner, row.message, row.accepted_ms)
        rows.append((*event, row.expires_ms, row.content_key, row.body, row.xid < oldest, len(following)))
    return rows


@does(fresh.LOW_WATER)
def low_water(t: Transaction, streams: Sequence[int]) -> Rows:
    rows = [t.get(t.database.low_water, stream) for stream in streams]
    return [(row.stream, row.day, row.xid, row.seq) for row in rows if row is not None]


@does(fresh._BEGIN)
def begin(t: Transaction, streams: Sequence[int]) -> Rows:
    found = []
    for stream, day, xid, seq in low_water(t, streams):
        event = next(_events_after(t, stream, day, xid, seq), None)
        first = (None, None, None) if event is None else (event.day, event.xid, event.seq)
        found.append((stream, day, xid, seq, *first, t.oldest_running(), t.database.next_number))
    return found


@does(origin._NUMBERS)
def numbers(t: Transaction) -> Rows:
    rows = [*t.all(t.database.event), *t.all(t.database.low_water)]
    return [(max([row.xid for row in rows], default=0), t.database.next_number)]


@does(fresh._SET_LOW)
def set_low_water(t: Transaction, *columns: Sequence[int]) -> Rows:
    for stream, day, xid, seq in zip(*columns, strict=True):
        row = t.get(t.database.low_water, stream)
        assert row is not None
        t.update(t.database.low_water, row, day=day, xid=xid, seq=seq)
    return ()


@does(queue._NEWEST_ACCEPTED)
def newest_accepted(t: Transaction, streams: Sequence[int]) -> Rows:
    newest: list[int] = []
    for stream in streams:
        seen = (row for row in t.database.event.backwards(stream) if t.sees(row))
        newest += [row.accepted_ms for row in islice(seen, 100) if row.id is not None][:1]
    return [(max(newest, default=None),)]


def _unsettled(t: Transaction, stream: int, below: int = 2**63) -> Iterator[Row]:
    """The events of a stream above its low water that are neither settled nor parked."""
    low = t.get(t.database.low_water, stream)
    assert low is not None
    return takewhile(lambda row: row.xid < below, _unsettled_after(t, stream, low.day, low.xid, low.seq))


def _events_after(t: Transaction, stream: int, day: int, xid: int, seq: int) -> Iterator[Row]:
    for row in t.database.event.after(stream, xid, seq):
        if row.id is not None and row.day >= day - 1 and t.sees(row):
            yield row


def _unsettled_after(t: Transaction, stream: int, day: int, xid: int, seq: int) -> Iterator[Row]:
    return (row for row in _events_after(t, stream, day, xid, seq) if not is_settled(t, place(row)))


def event_at(t: Transaction, day: int, at: Place) -> Row | None:
    return t.get(t.database.event, (*at, day))


@does(queue._OLDEST)
def oldest(t: Transaction, streams: Sequence[int], *low: Sequence[int]) -> Rows:
    found = []
    for stream, day, xid, seq in zip(streams, *low, strict=True):
        found += [row.accepted_ms for row in islice(_unsettled_after(t, stream, day, xid, seq), 1)]
    for stream in streams:
        for parked in t.where(t.database.parked, ("stream",), stream):
            event = t.get(t.database.kept, place(parked)) or event_at(t, parked.day, place(parked))
            if event is not None:
                found.append(event.accepted_ms)
    return [(min(found, default=None),)]


# -- how much waits ----------------------------------------------------------------------------------------------------


@does(backlog._FRESH)
def count_fresh(t: Transaction, streams: Sequence[int], below: int) -> Rows:
    rows = [row for stream in streams for row in _unsettled(t, stream, below)]
    return [(len(rows), sum(row.size for row in rows))]


@does(backlog._PARKED)
def count_parked(t: Transaction, streams: Sequence[int]) -> Rows:
    rows = [row for stream in streams for row in t.where(t.database.parked, ("stream",), stream)]
    waiting = {(*place(row), row.size) for row in rows}
    return [(len(waiting), sum(size for *_, size in waiting))]


@does(f"SELECT {places.XMIN}")
def oldest_running(t: Transaction) -> Rows:
    return [(t.oldest_running(),)]


@does(backlog._NEW)
def count_new(t: Transaction, streams: Sequence[int], since: int, first_day: int) -> Rows:
    below, events, size = t.oldest_running(), 0, 0
    for stream in streams:
        for row in t.database.event.after(stream, since - 1, 2**63):
            if row.xid >= below:
                break
            if row.id is not None and row.day >= first_day and t.sees(row):
                events, size = events + 1, size + row.size
    return [(below, events, size)]


@does(backlog._OTHERS)
def count_others(t: Transaction, own: int) -> Rows:
    since_s = t.database.clock() - 10
    rows = [row for row in t.all(t.database.node) if row.number != own and row.beat_at > since_s]
    events, size = sum(row.backlog_events for row in rows), sum(row.backlog_bytes for row in rows)
    return [(events, size, any(row.delivers for row in rows))]


# -- settle ------------------------------------------------------------------------------------------------------------


@does(settle_sql._SETTLE)
def settle(t: Transaction, day: int, at_ms: int, *columns: Sequence[Any]) -> Rows:
    refuse_without_partition(t, "settlement", day)
    for stream, xid, seq, unit, event_day, attempts in zip(*columns, strict=True):
        t.insert(
            t.database.settlement,
            day=day,
            stream=stream,
            xid=xid,
            seq=seq,
            unit=unit,
            event_day=event_day,
            number=t.database.next_of("settlement"),
            at_ms=at_ms,
            attempts=attempts,
        )
    return ()


@does(settle_sql._SETTLED)
def settled(t: Transaction, *columns: Sequence[int]) -> Rows:
    keys = zip(*columns, strict=True)
    return [key for key in keys if any(row.unit == key[3] for row in t.where(t.database.settlement, _PLACE, key[:3]))]


@does(settle_sql._UNPARK)
def unpark(t: Transaction, ids: Sequence[int]) -> Rows:
    for id in ids:
        if (row := t.get(t.database.parked, id)) is not None:
            t.delete(t.database.parked, row)
    return ()


@does(settle_sql._PARK)
def park(t: Transaction, *columns: Sequence[Any]) -> Rows:
    for stream, xid, seq, day, lane, due_ms, expires_ms, tries, round, size, targets in zip(*columns, strict=True):
        t.insert(
            t.database.parked,
            id=t.database.next_of("parked"),
            stream=stream,
            xid=xid,
            seq=seq,
            day=day,
            lane=lane,
            due_ms=due_ms,
            expires_ms=expires_ms,
            tries=tries,
            round=round,
            size=size,
            targets=targets,
        )
    return ()


@does(settle_sql._WAITING)
def waiting(t: Transaction, *columns: Sequence[int]) -> Rows:
    return [at for at in dict.fromkeys(zip(*columns, strict=True)) if t.where(t.database.parked, _PLACE, at)]


@does(settle_sql._DEAD)
def keep_dead(t: Transaction, *columns: Sequence[Any]) -> Rows:
    for stream, xid, seq, day, id, owner, message, accepted, expires, size, round, key_id, body in zip(
        *columns, strict=True
    ):
        new = {
            "stream": stream,
            "xid": xid,
            "seq": seq,
            "day": day,
            "id": id,
            "owner": owner,
            "message": message,
            "accepted_ms": accepted,
            "expires_ms": expires,
            "size": size,
            "round": round,
            "content_key": key_id,
            "body": body,
            "dead": True,
            "settled_ms": None,
        }
        t.put(t.database.kept, (stream, xid, seq), new, {"dead": True})
    return ()


def _kept(t: Transaction, columns: Iterable[Sequence[int]]) -> list[Row]:
    rows = [t.get(t.database.kept, at) for at in zip(*columns, strict=True)]
    return [row for row in rows if row is not None]


@does(settle_sql._END)
def end(t: Transaction, at_ms: int, *columns: Sequence[int]) -> Rows:
    for row in _kept(t, columns):
        t.update(t.database.kept, row, settled_ms=at_ms, body=row.body if row.dead else b"")
    return ()


@does(settle_sql._LOCK_EVENTS)
def lock_events(t: Transaction, *columns: Sequence[int]) -> Rows:
    return _locked(t, [event_at(t, day, (stream, xid, seq)) for day, stream, xid, seq in zip(*columns, strict=True)])


@does(settle_sql._LOCK_KEPT)
def lock_kept(t: Transaction, *columns: Sequence[int]) -> Rows:
    return _locked(t, [t.get(t.database.kept, tuple(at)) for _, *at in zip(*columns, strict=True)])


def _locked(t: Transaction, rows: Iterable[Row | None]) -> Rows:
    found = [row for row in rows if row is not None]
    for row in found:
        t.lock(row, shared=True)
    return [place(row) for row in found]


# -- what became of them -----------------------------------------------------------------------------------------------


def _letter(row: Row) -> tuple[Any, ...]:
    event = (row.day, row.id, row.owner, row.message, row.accepted_ms, row.expires_ms, row.round, row.content_key)
    return (*place(row), *event, row.body)


def _dead(t: Transaction) -> list[Row]:
    rows = [row for row in t.all(t.database.kept) if row.dead and row.settled_ms is not None]
    return sorted(rows, key=lambda row: row.seq)


_LETTER = "stream xid seq day id owner message accepted_ms expires_ms round content_key body"


@does(event_log._PAGE, names=_LETTER)
def letters(t: Transaction, first: int, limit: int) -> Rows:
    return [_letter(row) for row in _dead(t)[::-1] if row.seq <= first][:limit]


@does(f"{event_log._PAGE} FOR UPDATE", names=_LETTER)
def letters_locked(t: Transaction, first: int, limit: int) -> Rows:
    return _letters_locked(t, [row for row in _dead(t)[::-1] if row.seq <= first][:limit])


@does(f"{event_log._NAMED} FOR UPDATE", names=_LETTER)
def named_letters_locked(t: Transaction, ids: Sequence[str]) -> Rows:
    wanted = set(ids)
    return _letters_locked(t, [row for row in _dead(t) if row.id in wanted])


def _letters_locked(t: Transaction, rows: Sequence[Row]) -> Rows:
    for row in rows:
        t.lock(row)
    return [_letter(row) for row in rows]


@does(event_log._COUNT)
def count_letters(t: Transaction) -> Rows:
    return [(len(_dead(t)),)]


@does(event_log._REPLAY)
def replay(t: Transaction, expires_ms: int, *columns: Sequence[int]) -> Rows:
    for row in _kept(t, columns):
        t.update(t.database.kept, row, dead=False, settled_ms=None, round=row.round + 1, expires_ms=expires_ms)
    return ()


@does(event_log._DISCARD)
def discard(t: Transaction, at_ms: int, *columns: Sequence[int]) -> Rows:
    for row in _kept(t, columns):
        t.update(t.database.kept, row, dead=False, settled_ms=at_ms, body=b"")
    return ()


@does(event_log._ATTEMPTS, names="stream xid seq attempts at_ms")
def attempts(t: Transaction, *columns: Sequence[int]) -> Rows:
    rows = [row for at in zip(*columns, strict=True) for row in t.where(t.database.settlement, _PLACE, at)]
    rows.sort(key=lambda row: row.number)
    return [(*place(row), row.attempts, row.at_ms) for row in rows]


@does(event_log._RECORD)
def find_record(t: Transaction, id: str) -> Rows:
    found = []
    for row in t.where(t.database.kept, ("id",), id):
        header = (row.owner, row.message, row.accepted_ms, row.expires_ms, row.round, row.dead, row.settled_ms)
        found.append((*place(row), *header, row.content_key, row.body))
    known = t.get(t.database.event_id, id)
    if known is not None and not found:
        for row in t.database.event.after(known.stream, known.xid, -1):
            if row.xid > known.xid:
                break
            if row.id == id and row.day == known.day and t.sees(row):
                header = (row.owner, row.message, row.accepted_ms, row.expires_ms, 0, False, None)
                found.append((*place(row), *header, row.content_key, row.body))
    return found


@does(event_log._PARKED)
def parked_of(t: Transaction, *at: int) -> Rows:
    rows = sorted(t.where(t.database.parked, _PLACE, at), key=lambda row: (row.due_ms, row.id))
    return [(row.lane, row.due_ms, row.tries, row.targets) for row in rows]
