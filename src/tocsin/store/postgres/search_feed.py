"""Fills the index of the search: which events were settled is read from their streams, beside the path of delivery.

In each stream a cursor goes over the events in order, below the oldest transaction that runs, as deliveries do: so no
commit is passed over that ends after a later one. It stops before the first event that was not settled; of what follows
that, some events are looked at all the same. An event of which something is still to come is looked at again and again:
whether it has more settlements by now (`sweep`).

One process fills at a time: whoever has the lock, for one transaction. Whoever changes what was settled before (a
replay, an erasure) holds the lock together with others like it, so that nothing read before is written afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.events import UserId
from tocsin.store.postgres import reading
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.horizons import Horizons
from tocsin.store.postgres.places import XMIN, day_of
from tocsin.store.postgres.reading import Spot, at_place, parked_of
from tocsin.store.postgres.schema import LOCK_SPACE
from tocsin.store.records import IndexState, State
from tocsin.store.search_shapes import Shapes, owner_key
from tocsin.store.searching import Combination, Shape

_FILLING: Final = 5
_ROWS: Final = 1000
"""About so many events are looked at in one step: the event loop is not to stand still for long."""
_FEWEST_OF_A_STREAM: Final = 8
_LOOKED_AT_AGAIN: Final = 5000
"""So many events of which something is to come are looked at each time."""
_STRAGGLES_AFTER_MS: Final = 5000
"""An event that was accepted longer ago, while those after it are settled, is passed over, and looked at again."""
_STATE_ROWS: Final = 50
_AGAIN: Final = -1

_TRY: Final = f"SELECT pg_try_advisory_xact_lock({LOCK_SPACE}, {_FILLING})"
_HOLD: Final = f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, {_FILLING})"
_HOLD_OFF: Final = f"SELECT pg_advisory_xact_lock_shared({LOCK_SPACE}, {_FILLING})"
# What is filled in is lost together with how far it was filled, and is filled in again: nobody need wait for the disk,
# nor for a standby.
_NEED_NOT_LAST: Final = "SET LOCAL synchronous_commit = off"
_FOLLOWING: Final = f"""(SELECT stream, day, xid, seq, id, owner, message, accepted_ms FROM event
        WHERE event.stream = own.stream AND (event.xid, event.seq) > (own.xid, own.seq)
            AND event.day >= {{first_day}}::int AND event.xid < {XMIN}
        ORDER BY event.xid, event.seq LIMIT {{most}})"""
_OF_EVENT: Final = f"settlement.day >= e.day AND {at_place('settlement', 'e')}"
_IS_SEEN: Final = "(SELECT true FROM seen WHERE seen.seq = e.seq AND seen.day = e.day LIMIT 1) IS NOT NULL"
_FIRST_DAY: Final = "SELECT min(day) - 1 FROM seen_to"
# What is below the low water and has no settlement was settled so long ago that this is forgotten.
_FEED: Final = f"""SELECT e.stream, e.day, e.xid, e.seq, e.owner::text, e.message, e.accepted_ms,
        e.id IS NULL OR {_IS_SEEN} OR s.settlements = 0 AND (e.xid, e.seq) <= (low.xid, low.seq) AS is_done,
        s.settlements, s.attempts, {parked_of("e")} AS parked
    FROM seen_to AS own JOIN low_water AS low USING (stream)
    CROSS JOIN LATERAL {_FOLLOWING.format(most="$1", first_day="$2")} AS e
    CROSS JOIN LATERAL (SELECT count(*) AS settlements, string_agg(attempts, ',' ORDER BY number) AS attempts
        FROM settlement WHERE e.id IS NOT NULL AND {_OF_EVENT}) AS s
    ORDER BY e.stream, e.xid, e.seq"""
_MOVE: Final = """UPDATE seen_to SET xid = t.xid, seq = t.seq
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS t(stream, xid, seq) WHERE seen_to.stream = t.stream"""
# Not the day of the event: in a store that was moved here, events of earlier days may follow.
_TODAY: Final = """UPDATE seen_to SET day = $1 WHERE day < $1 AND NOT EXISTS (SELECT 1 FROM event
    WHERE event.stream = seen_to.stream AND (event.xid, event.seq) > (seen_to.xid, seen_to.seq) AND event.day < $1)"""
_WRITE: Final = """INSERT INTO seen(seq, xid, accepted_ms, day, event_day, owner, shape, settlements, stream, waits)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::int[], $7::int[],
        $8::int[], $9::smallint[], $10::bool[])
    ON CONFLICT (seq, day) DO UPDATE SET shape = excluded.shape, settlements = excluded.settlements,
        waits = excluded.waits"""
_SWEEP: Final = f"""SELECT * FROM (
        SELECT w.seq, w.day, w.event_day, w.stream, w.xid, s.settlements <> w.settlements AS is_changed,
            row_number() OVER (ORDER BY w.seq) AS n, count(*) OVER () AS rows
        FROM (SELECT seq, day, event_day, stream, xid, settlements FROM seen WHERE waits AND seq > $1
            ORDER BY seq LIMIT $2) AS w
        CROSS JOIN LATERAL (SELECT count(*)::int AS settlements FROM settlement
            WHERE settlement.day >= w.event_day AND {at_place("settlement", "w")}) AS s
    ) AS looked_at WHERE is_changed OR n = rows ORDER BY seq"""
_FORGET: Final = "DELETE FROM seen WHERE seq = ANY($1::bigint[])"
_LOOK_AGAIN: Final = f"UPDATE seen SET waits = true, settlements = {_AGAIN} WHERE seq = ANY($1::bigint[])"
_COUNT_SHAPES: Final = "SELECT count(*) FROM shape"
_SHAPES: Final = "SELECT id, message, combinations FROM shape"
_NEW_SHAPE: Final = (
    "INSERT INTO shape(id, message, combinations) SELECT * FROM unnest($1::int[], $2::text[], $3::text[])"
)
_META: Final = "SELECT name, value FROM meta WHERE name IN ('search_rebuilding', 'search_swept', 'search_sweep_ms')"
_SET_META: Final = """INSERT INTO meta(name, value) SELECT * FROM unnest($1::text[], $2::bigint[])
    ON CONFLICT (name) DO UPDATE SET value = excluded.value"""
_BEHIND: Final = f"""SELECT count(*), min(s.at_ms)
    FROM seen_to AS own CROSS JOIN LATERAL {_FOLLOWING.format(most=_STATE_ROWS, first_day="$1")} AS e
    CROSS JOIN LATERAL (SELECT min(at_ms) AS at_ms FROM settlement WHERE {_OF_EVENT} AND settlement.unit = 0) AS s
    WHERE e.id IS NOT NULL AND s.at_ms IS NOT NULL AND NOT {_IS_SEEN}"""
_CHANGED: Final = f"""SELECT count(*), min(s.at_ms)
    FROM (SELECT seq, event_day, stream, xid, settlements FROM seen WHERE waits AND seq > $1 ORDER BY seq LIMIT $2) AS w
    CROSS JOIN LATERAL (SELECT count(*) AS settlements, max(at_ms) AS at_ms FROM settlement
        WHERE settlement.day >= w.event_day AND {at_place("settlement", "w")}) AS s
    WHERE s.settlements <> w.settlements"""

_encode = msgspec.json.Encoder().encode
_decode_combinations = msgspec.json.Decoder(tuple[Combination, ...]).decode


class Row(Struct, frozen=True):
    """An event of a stream, as it is fed."""

    spot: Spot
    owner: UserId
    message: str
    accepted_ms: int
    is_done: bool
    """It is in the index already, or nothing that belongs there."""
    settlements: int
    attempts: str | None
    parked: str | None

    @property
    def is_settled(self) -> bool:
        return self.is_done or self.settlements > 0


class Filler:
    """What a process needs to fill the index. Every method is a job on a connection, in a transaction."""

    def __init__(self, horizons: Horizons) -> None:
        self._horizons = horizons
        self._new: list[tuple[int, str, str]] = []
        self._shapes: Shapes | None = None
        self._of_a_stream = _FEWEST_OF_A_STREAM

    def forget(self) -> None:
        """A job has failed: what is in memory may not be on record."""
        self._shapes = None

    async def step(self, connection: Connection, now_ms: int) -> bool | None:
        """Look at some events that follow; whether there may be more. None: another process fills."""
        if not await connection.fetchval(_TRY):
            return None
        await connection.execute(_NEED_NOT_LAST)
        await reading.by_index(connection)
        first_day = await connection.fetchval(_FIRST_DAY)
        by_stream: dict[int, list[Row]] = {}
        for stream, day, xid, seq, owner, message, accepted_ms, *rest in await connection.fetch(
            _FEED, self._of_a_stream, first_day
        ):
            row = Row(Spot(day, stream, xid, seq), UserId(owner), message, accepted_ms, *rest)
            by_stream.setdefault(stream, []).append(row)
        write: list[Row] = []
        moved: list[Spot] = []
        full, progress = 0, False
        for rows in by_stream.values():
            own, to = self._look(rows, now_ms)
            write += own
            if to is not None:
                moved.append(to)
            if len(rows) == self._of_a_stream:
                full += 1
                progress = progress or to is not None or bool(own)
        await self._write(connection, write)
        if moved:
            _, streams, xids, seqs = (list(column) for column in zip(*moved, strict=True))
            await connection.execute(_MOVE, streams, xids, seqs)
        if not full and first_day < day_of(now_ms) - 1:
            # What is appended from now on is of today; an event of yesterday may be about to commit.
            await connection.execute(_TODAY, day_of(now_ms))
        self._of_a_stream = max(_FEWEST_OF_A_STREAM, _ROWS // full if full else 0)
        return progress

    def _look(self, rows: Sequence[Row], now_ms: int) -> tuple[list[Row], Spot | None]:
        """Those of one stream's following events that are to be written, and up to where it is looked at for good."""
        write = [row for row in rows if not row.is_done and row.settlements]
        unsettled = next((n for n, row in enumerate(rows) if not row.is_settled), len(rows))
        if len(rows) == self._of_a_stream and unsettled < len(rows):
            late = [row for row in rows if not row.is_settled]
            if 2 * len(late) < len(rows) and all(row.accepted_ms < now_ms - _STRAGGLES_AFTER_MS for row in late):
                return write + late, rows[-1].spot
        return write, rows[unsettled - 1].spot if unsettled else None

    async def _write(self, connection: Connection, rows: Sequence[Row]) -> None:
        if not rows:
            return
        shapes = await self._known_shapes(connection)
        values = []
        for row in rows:
            attempts, waits = reading.flat(row.attempts), row.parked is not None or not row.settlements
            if waits:
                state = State.DELIVERING if row.settlements else State.ACCEPTED
                shape = shapes.waiting(row.message, row.accepted_ms, attempts, reading.waits(row.parked), state)
            else:
                shape = shapes.settled(row.message, row.accepted_ms, attempts)
            values.append(_values(row.spot, row.spot.day, row.owner, row.accepted_ms, shape, row.settlements, waits))
        await self._insert(connection, values)

    async def sweep(self, connection: Connection, now_ms: int) -> None:
        """Look again at some events of which something was to come."""
        if not await connection.fetchval(_TRY):
            return
        await reading.by_index(connection)
        meta = dict(await connection.fetch(_META))
        after = meta.get("search_swept", 0)
        rows = await connection.fetch(_SWEEP, after, _LOOKED_AT_AGAIN)
        changed = [row for row in rows if row["is_changed"]]
        days = {row["seq"]: row["day"] for row in changed}
        spots = [Spot(row["event_day"], row["stream"], row["xid"], row["seq"]) for row in changed]
        found = await reading.records(connection, spots, self._horizons)
        shapes, values = await self._known_shapes(connection), []
        for spot in spots:
            if (one := found.get(spot.seq)) is None:
                continue
            record, event = one.record, one.record.event
            waits = record.state in (State.ACCEPTED, State.DELIVERING)
            attempts = record.attempts
            if waits:
                shape = shapes.waiting(event.message, event.accepted_ms, attempts, record.waiting, record.state)
            else:
                shape = shapes.settled(event.message, event.accepted_ms, attempts)
            day = days[spot.seq]
            values.append(_values(spot, day, event.owner, event.accepted_ms, shape, one.settlements, waits))
        await self._insert(connection, values)
        if gone := days.keys() - found.keys():
            await forget(connection, gone)
        ends = not rows or rows[-1]["rows"] < _LOOKED_AT_AGAIN
        began_ms = 0 if ends else meta.get("search_sweep_ms") or now_ms
        now = {"search_swept": 0 if ends else rows[-1]["seq"], "search_sweep_ms": began_ms, "search_rebuilding": 0}
        if any(meta.get(name, 0) != value for name, value in now.items()):
            await connection.execute(_SET_META, list(now), list(now.values()))

    async def _insert(self, connection: Connection, values: Sequence[tuple[Any, ...]]) -> None:
        if self._new:
            await connection.execute(_NEW_SHAPE, *(list(column) for column in zip(*self._new, strict=True)))
            self._new.clear()
        if values:
            await connection.execute(_WRITE, *(list(column) for column in zip(*values, strict=True)))

    async def _known_shapes(self, connection: Connection) -> Shapes:
        if self._shapes is None or len(self._shapes) != await connection.fetchval(_COUNT_SHAPES):
            known = {shape: id for id, shape in (await shapes_of(connection)).items()}
            self._new.clear()
            self._shapes = Shapes(known, self._note_shape)
        return self._shapes

    def _note_shape(self, id: int, shape: Shape) -> None:
        self._new.append((id, shape[0], _encode(shape[1]).decode()))


def _values(
    spot: Spot, day: int, owner: UserId, accepted_ms: int, shape: int, settlements: int, waits: bool
) -> tuple[Any, ...]:
    return spot.seq, spot.xid, accepted_ms, day, spot.day, key_of(owner), shape, settlements, spot.stream, waits


def key_of(owner: UserId) -> int:
    """The owner's key, as a number that may be negative."""
    return owner_key(owner) - 2**31


async def shapes_of(connection: Connection) -> dict[int, Shape]:
    rows = await connection.fetch(_SHAPES)
    return {id: (message, _decode_combinations(combinations)) for id, message, combinations in rows}


async def count_shapes(connection: Connection) -> int:
    """Shapes are never deleted: where there are as many as before, they are the same."""
    number: int = await connection.fetchval(_COUNT_SHAPES)
    return number


async def hold_off(connection: Connection) -> None:
    """Let nobody fill until this transaction ends. To be called before anything is changed of what was settled."""
    await connection.execute(_HOLD_OFF)


async def hold(connection: Connection) -> None:
    """The same, where rows of the index are moved: one process at a time."""
    await connection.execute(_HOLD)


async def look_again(connection: Connection, seqs: Iterable[int]) -> None:
    """Something has become of these events that was not settled. The filling is held off."""
    await connection.execute(_LOOK_AGAIN, list(seqs))


async def forget(connection: Connection, seqs: Iterable[int]) -> None:
    """These events are gone. The filling is held off, or it is what calls this."""
    await connection.execute(_FORGET, list(seqs))


async def state(connection: Connection, now_ms: int) -> IndexState:
    """How far the index is behind. Of each stream some events are counted, so there may be more than it says. To be
    called in a transaction."""
    await reading.by_index(connection)
    meta = dict(await connection.fetch(_META))
    waiting, since_ms = await connection.fetchrow(_BEHIND, await connection.fetchval(_FIRST_DAY))
    if meta.get("search_rebuilding"):
        return IndexState(0.0, waiting, rebuilding=True, indexed_to_ms=None)
    changed, changed_ms = await connection.fetchrow(_CHANGED, meta.get("search_swept", 0), _STATE_ROWS)
    times = [one for one in (since_ms, changed_ms, meta.get("search_sweep_ms")) if one]
    indexed_to_ms = min([now_ms, *times])
    return IndexState((now_ms - indexed_to_ms) / 1000, waiting + changed, rebuilding=False, indexed_to_ms=indexed_to_ms)
