"""The statements of what is parked: what is due of a lane, what has expired, when the next of each lane is due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.envelope import parted
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.contents import Contents
from tocsin.store.postgres.fresh import CLAIM_BYTES
from tocsin.store.postgres.places import LogLease
from tocsin.store.records import Item

_ROWS_AT_ONCE: Final = 256
# An event is in its partition, or in `kept` where it was replayed or has outlived its partition. Bodies are read only
# of as many rows as hold the bytes asked for together.
_WITH_EVENTS: Final = """SELECT p.id, p.stream, p.xid, p.seq, p.day, p.lane, p.tries, p.round, p.targets, p.expires_ms,
        coalesce(kept.id, event.id)::text AS event_id, coalesce(kept.owner, event.owner)::text AS owner,
        coalesce(kept.message, event.message) AS message,
        coalesce(kept.accepted_ms, event.accepted_ms) AS accepted_ms, coalesce(kept.body, event.body) AS body,
        CASE WHEN kept.id IS NULL THEN event.content_key ELSE kept.content_key END AS content_key
    FROM (SELECT found.*, sum(size) OVER (ORDER BY due_ms, id ROWS UNBOUNDED PRECEDING) AS total FROM ({found}) AS found
        ) AS p
    LEFT JOIN kept ON kept.stream = p.stream AND kept.xid = p.xid AND kept.seq = p.seq
    LEFT JOIN event ON event.day = p.day AND event.stream = p.stream AND event.xid = p.xid AND event.seq = p.seq
    WHERE p.total - p.size < {bytes} ORDER BY p.due_ms, p.id"""
_DUE: Final = _WITH_EVENTS.format(
    found="""SELECT one.* FROM unnest($1::smallint[]) AS own(stream) CROSS JOIN LATERAL (
            SELECT * FROM parked WHERE parked.stream = own.stream AND parked.lane = $2
                AND (parked.due_ms <= $3 OR parked.id <= $4) AND parked.id <> ALL($5::bigint[])
            ORDER BY parked.due_ms, parked.id LIMIT $6
        ) AS one ORDER BY due_ms, id LIMIT $6""",
    bytes="$7",
)
_EXPIRED: Final = _WITH_EVENTS.format(
    found="""SELECT * FROM parked WHERE stream = ANY($1::smallint[]) AND expires_ms <= $2
            AND id <> ALL($3::bigint[]) ORDER BY expires_ms LIMIT $4""",
    bytes="$5",
)
_EARLIEST: Final = """SELECT min(one.due_ms) FROM unnest($1::smallint[]) AS own(stream) CROSS JOIN LATERAL (
        SELECT due_ms FROM parked WHERE parked.stream = own.stream AND parked.lane = $2
            AND parked.id <> ALL($3::bigint[])
        ORDER BY parked.due_ms LIMIT 1) AS one"""
_OVERVIEW: Final = """SELECT parked.lane, min(due_ms), coalesce(bool_or(parked.id <= woken.upto), false),
        max(woken.upto)
    FROM parked LEFT JOIN woken USING (lane) WHERE stream = ANY($1::smallint[]) AND parked.id <> ALL($2::bigint[])
    GROUP BY parked.lane"""
_WAKE: Final = """INSERT INTO woken(lane, upto)
    SELECT lane, (SELECT coalesce(max(id), 0) FROM parked) FROM unnest($1::text[]) AS t(lane)
    ON CONFLICT (lane) DO UPDATE SET upto = greatest(woken.upto, excluded.upto) RETURNING lane, upto"""
_BRING_FORWARD: Final = """UPDATE parked SET due_ms = least(due_ms - $1, $2)
    WHERE id IN (SELECT id FROM parked WHERE stream = ANY($3::smallint[]) AND id > $4 AND id <= $5
        AND id <> ALL($6::bigint[]) AND due_ms > $7 ORDER BY id LIMIT 5000) RETURNING id"""
_NEWEST: Final = "SELECT coalesce(max(id), 0) FROM parked"

_decode_targets = msgspec.json.Decoder(tuple[str, ...]).decode


class Due:
    """What is asked of a lane: of which streams, as of when, and without which rows, as they are claimed already."""

    def __init__(
        self, lane: str, streams: Sequence[int], now_ms: int, upto: int, claimed: Collection[int], contents: Contents
    ) -> None:
        self.lane = lane
        self._contents = contents
        self.streams = streams
        self.now_ms = now_ms
        self.upto = upto
        """Rows up to this number were woken: they are due."""
        self.claimed = list(claimed)

    async def fetch(self, connection: Connection, urgent: int, most: int, size_bytes: int) -> list[Item]:
        """Up to `most` rows of one urgency, in the order in which they are due."""
        streams = [stream for stream in self.streams if stream & 1 == urgent]
        asked = min(most, _ROWS_AT_ONCE)
        rows = await connection.fetch(
            _DUE, streams, self.lane, self.now_ms, self.upto, self.claimed, asked, max(1, size_bytes)
        )
        return await _items(connection, rows, self._contents)

    async def earliest(self, connection: Connection) -> int | None:
        """When the first of what is left is due; None where nothing is."""
        found: int | None = await connection.fetchval(_EARLIEST, self.streams, self.lane, self.claimed)
        return found


async def expired(
    connection: Connection,
    streams: Sequence[int],
    now_ms: int,
    claimed: Collection[int],
    limit: int,
    contents: Contents,
) -> list[Item]:
    rows = await connection.fetch(_EXPIRED, streams, now_ms, list(claimed), limit, CLAIM_BYTES)
    return await _items(connection, rows, contents)


async def overview(
    connection: Connection, streams: Sequence[int], claimed: Collection[int]
) -> list[tuple[str, int, bool, int | None]]:
    """The lanes with anything parked: when the first of it is due, whether some of it was woken, and up to where."""
    return [tuple(row) for row in await connection.fetch(_OVERVIEW, streams, list(claimed))]


async def wake(connection: Connection, lanes: Sequence[str]) -> dict[str, int]:
    """Note that all that is parked for these lanes by now is due; returns up to which row, by lane."""
    return dict(await connection.fetch(_WAKE, sorted(set(lanes))))


async def newest(connection: Connection) -> int:
    found: int = await connection.fetchval(_NEWEST)
    return found


class Times(NamedTuple):
    """By how much the clock was set back, what it shows now, and the latest due time there is."""

    by_ms: int
    now_ms: int
    latest_ms: int


async def bring_forward(
    connection: Connection, streams: Sequence[int], times: Times, after: int, last: int, out: Collection[int]
) -> int | None:
    """Move the due times of some thousand rows after `after`, without those that are out; returns the last of them,
    None where there was none left."""
    rows = await connection.fetch(
        _BRING_FORWARD, times.by_ms, times.latest_ms, streams, after, last, list(out), times.now_ms
    )
    return max((row[0] for row in rows), default=None)


async def _items(connection: Connection, rows: Sequence[Any], contents: Contents) -> list[Item]:
    await contents.learn([row["content_key"] for row in rows], connection)
    return [_item(row, contents.open(row["content_key"], row["event_id"], row["body"])) for row in rows]


def _item(row: Any, body: bytes) -> Item:
    id, stream, xid, seq, day, lane, tries, round, targets, expires, event_id, owner, message, accepted, *_ = row
    event = Event(EventId(event_id), UserId(owner), message, accepted, expires, *parted(body))
    return Item(event, LogLease(day, stream, xid, seq, id, 0), _decode_targets(targets), lane, tries, round)
