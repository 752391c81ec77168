"""The statements of `settle`: rows are inserted, what was parked is deleted, the event itself is never touched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from tocsin.domain.events import Event
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.contents import Contents
from tocsin.store.postgres.places import DAY_MS, LogLease
from tocsin.store.records import DEAD_LETTER, Parked, Settlement

LONGEST_DELAY_MS: Final = 28 * 24 * 3600 * 1000
"""No delivery is parked for longer, whatever its due time says: no event lives longer by default."""

Place = tuple[int, int, int]
"""An event's stream, transaction and number."""

_SETTLE: Final = """INSERT INTO settlement(day, stream, xid, seq, unit, event_day, at_ms, attempts)
    SELECT $1, stream, xid, seq, unit, event_day, $2, attempts
    FROM unnest($3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::int[], $8::text[]) WITH ORDINALITY
        AS t(stream, xid, seq, unit, event_day, attempts, n) ORDER BY n"""
_SETTLED: Final = """SELECT stream, xid, seq, unit FROM settlement
    JOIN unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS t(stream, xid, seq, unit)
    USING (stream, xid, seq, unit)"""
_UNPARK: Final = "DELETE FROM parked WHERE id = ANY($1::bigint[])"
_PARK: Final = """INSERT INTO parked(stream, xid, seq, day, lane, due_ms, expires_ms, tries, round, size, targets)
    SELECT stream, xid, seq, day, lane, due_ms, expires_ms, tries, round, size, targets
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::bigint[], $7::bigint[],
        $8::int[], $9::int[], $10::int[], $11::text[]) WITH ORDINALITY
        AS t(stream, xid, seq, day, lane, due_ms, expires_ms, tries, round, size, targets, n) ORDER BY n"""
_WAITING: Final = """SELECT DISTINCT stream, xid, seq FROM parked
    JOIN unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS t(stream, xid, seq) USING (stream, xid, seq)"""
_DEAD: Final = """INSERT INTO kept(stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size, round,
        content_key, body, dead)
    SELECT *, true FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::int[], $5::uuid[], $6::uuid[],
        $7::text[], $8::bigint[], $9::bigint[], $10::int[], $11::int[], $12::bigint[], $13::bytea[])
    ON CONFLICT (stream, xid, seq) DO UPDATE SET dead = true"""
_END: Final = """UPDATE kept SET settled_ms = $1, body = CASE WHEN kept.dead THEN kept.body ELSE ''::bytea END
    FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS t(stream, xid, seq)
    WHERE kept.stream = t.stream AND kept.xid = t.xid AND kept.seq = t.seq"""

_NAMED: Final = "unnest($1::int[], $2::smallint[], $3::bigint[], $4::bigint[]) AS t(day, stream, xid, seq)"
_LOCK_EVENTS: Final = f"""SELECT event.stream, event.xid, event.seq FROM event JOIN {_NAMED}
    ON event.day = t.day AND event.stream = t.stream AND event.xid = t.xid AND event.seq = t.seq
    FOR KEY SHARE OF event"""
_LOCK_KEPT: Final = f"""SELECT kept.stream, kept.xid, kept.seq FROM kept JOIN {_NAMED}
    ON kept.stream = t.stream AND kept.xid = t.xid AND kept.seq = t.seq FOR KEY SHARE OF kept"""

_encode = msgspec.json.Encoder().encode


class Work:
    """All that settlements have to write, as rows."""

    def __init__(self, settlements: Sequence[Settlement], leases: Sequence[LogLease], now_ms: int) -> None:
        self.now_ms = now_ms
        self.settled: list[tuple[Any, ...]] = []
        self.unpark: list[int] = []
        self.park: list[tuple[Any, ...]] = []
        self.dead: dict[Place, tuple[int, Event, int]] = {}
        self.uncertain: set[Place] = set()
        """Events of which other parts may still be parked."""
        self.places: set[Place] = set()
        for settlement, lease in zip(settlements, leases, strict=True):
            place = lease.place
            self.places.add(place)
            self.settled.append((*place, lease.parked_id, lease.day, _encode(settlement.attempts).decode()))
            if lease.parked_id:
                self.unpark.append(lease.parked_id)
                self.uncertain.add(place)
            for attempt in settlement.attempts:
                if attempt.result in DEAD_LETTER:
                    item = settlement.item
                    self.dead[place] = (lease.day, item.event, item.round)
                    break
            if settlement.parked:
                self.uncertain.add(place)
                event, round = settlement.item.event, settlement.item.round
                self.park += parked_rows(place, lease.day, event, round, settlement.parked, now_ms)

    @property
    def is_simple(self) -> bool:
        """Whether one statement does it: fresh events that have ended well."""
        return not (self.uncertain or self.dead)


async def settle_simply(connection: Connection, work: Work) -> None:
    if work.settled:
        await connection.execute(_SETTLE, work.now_ms // DAY_MS, work.now_ms, *_columns(work.settled))


async def settle(connection: Connection, work: Work, contents: Contents) -> set[Place]:
    """Returns the events that have no device left to wait for. To be called in a transaction."""
    await settle_simply(connection, work)
    if work.unpark:
        await connection.execute(_UNPARK, work.unpark)
    if work.park:
        await connection.execute(_PARK, *_columns(work.park))
    if work.dead:
        key_id, sealed = await contents.seal([event for _, event, _ in work.dead.values()])
        rows = [
            (*place, day, *_header(event), round, key_id, body)
            for (place, (day, event, round)), body in zip(work.dead.items(), sealed, strict=True)
        ]
        await connection.execute(_DEAD, *_columns(rows))
    waiting: set[Place] = set()
    if work.uncertain:
        waiting = {tuple(row) for row in await connection.fetch(_WAITING, *_columns(sorted(work.uncertain)))}
    finished = work.places - waiting
    if ended := sorted(finished & (work.uncertain | work.dead.keys())):
        await connection.execute(_END, work.now_ms, *_columns(ended))
    return finished


async def on_record(connection: Connection, leases: Collection[LogLease]) -> set[tuple[int, int, int, int]]:
    """Those of these that are settled already, by place and parked row."""
    keys = [(*lease.place, lease.parked_id) for lease in leases]
    return {tuple(row) for row in await connection.fetch(_SETTLED, *_columns(keys))}


async def gone(connection: Connection, leases: Collection[LogLease]) -> set[Place]:
    """Those of these events that were erased. The others stay until the transaction ends."""
    places = sorted({(lease.day, *lease.place) for lease in leases})
    found: set[Place] = set()
    for statement in (_LOCK_EVENTS, _LOCK_KEPT):
        found |= {tuple(row) for row in await connection.fetch(statement, *_columns(places))}
    return {lease.place for lease in leases} - found


async def park(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    await connection.execute(_PARK, *_columns(rows))


def parked_rows(
    place: Place, day: int, event: Event, round: int, parked: Sequence[Parked], now_ms: int
) -> list[tuple[Any, ...]]:
    """The rows of `parked` for deliveries of one event."""
    latest_due = now_ms + LONGEST_DELAY_MS
    return [
        (
            *place,
            day,
            one.lane,
            min(one.due_ms, latest_due),
            event.expires_ms,
            one.tries,
            round,
            len(event.body),
            _encode(one.targets).decode(),
        )
        for one in parked
    ]


def _header(event: Event) -> tuple[Any, ...]:
    """An event's columns in `kept` beside its content."""
    return (
        event.id,
        event.owner,
        event.message,
        event.accepted_ms,
        event.expires_ms,
        len(event.body),
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
