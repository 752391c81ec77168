"""Looks for events in the index of the search, newest first, for as long as it may, and has the records decide.

A user's events are found by the owner's key; events of few shapes by their shape; all else is read in order, some
thousand rows at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from tocsin.store.postgres import reading
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.horizons import Horizons
from tocsin.store.postgres.places import LOGS, stream_of, streams_of
from tocsin.store.postgres.reading import Spot, at_place
from tocsin.store.postgres.search_feed import key_of
from tocsin.store.records import EventRecord, State
from tocsin.store.search_page import CHUNK, END, MOST_FRESH, SLACK_MS, Page
from tocsin.store.search_shapes import wanted
from tocsin.store.searching import Shape

_WINDOW: Final = 20_000
"""So many numbers are read in order in one statement, whether or not anything of the shapes is found."""
_RECORDS: Final = 50
"""So many records are read at a time: a page may be full before a chunk of the index is used up."""
_MOST_BY_SHAPE: Final = 100
"""Of more shapes than that, the rows are read in order."""
_FRESH_OF_A_STREAM: Final = 64
_ALL_STREAMS: Final = [stream for log in range(LOGS) for stream in streams_of(log)]

_SPOT: Final = "event_day, stream, xid, seq, waits"
_BETWEEN: Final = "seq < $1 AND seq >= $2 AND accepted_ms >= $3 AND accepted_ms < $4"
_OF: Final = f"""SELECT {_SPOT} FROM unnest($5::int[]) AS own(number) CROSS JOIN LATERAL (
        SELECT {_SPOT} FROM seen WHERE {{condition}} AND {_BETWEEN}
        ORDER BY seen.seq DESC LIMIT {CHUNK}) AS found
    ORDER BY seq DESC LIMIT {CHUNK}"""
_OF_OWNERS: Final = _OF.format(condition="seen.owner = own.number AND seen.shape = ANY($6::int[])")
_OF_SHAPES: Final = _OF.format(condition="seen.shape = own.number")
_IN_ORDER: Final = f"""SELECT {_SPOT} FROM seen WHERE shape = ANY($5::int[]) AND {_BETWEEN}
    ORDER BY seq DESC LIMIT {CHUNK}"""
_EVERYTHING: Final = f"SELECT {_SPOT} FROM seen WHERE {_BETWEEN} ORDER BY seq DESC LIMIT {CHUNK}"
# Above everything that is known to be settled, or to be in the index.
_KNOWN: Final = """SELECT DISTINCT ON (stream) stream, day, xid, seq FROM (
        SELECT stream, day, xid, seq FROM low_water UNION ALL SELECT stream, day, xid, seq FROM seen_to) AS known
    WHERE stream = ANY($1::smallint[]) ORDER BY stream, xid DESC, seq DESC"""
_FRESH: Final = f"""SELECT e.day, e.stream, e.xid, e.seq
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS after(stream, xid, seq)
    CROSS JOIN LATERAL (SELECT day, stream, xid, seq FROM event
        WHERE event.stream = after.stream AND (event.xid, event.seq) > (after.xid, after.seq)
            AND event.day >= $4 AND event.id IS NOT NULL AND (SELECT true FROM settlement
                WHERE settlement.day >= $4 AND {at_place("settlement", "event")} LIMIT 1) IS NULL
        ORDER BY event.xid DESC, event.seq DESC LIMIT {_FRESH_OF_A_STREAM}) AS e
    ORDER BY e.seq DESC LIMIT {MOST_FRESH}"""
_ACCEPTED_FROM: Final = "SELECT seq, accepted_ms FROM seen WHERE seq >= $1 ORDER BY seq LIMIT 1"
_ENDS: Final = "SELECT min(seq), max(seq) FROM seen"

_Spots = dict[Spot, bool]
"""Where events are, and whether something is to come of each."""


class Look:
    """Looks for one page, in a transaction that sees one snapshot. `is_over` says when the time for it has ended."""

    def __init__(
        self,
        connection: Connection,
        page: Page,
        shapes: dict[int, Shape],
        horizons: Horizons,
        is_over: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._page = page
        self._query = page.query
        self._shapes = sorted(wanted(shapes, page.query))
        self._is_every_shape = len(self._shapes) > len(shapes)
        self._horizons = horizons
        self._is_over = is_over

    async def look(self) -> None:
        page = self._page
        if page.wants_fresh:
            await self._fresh()
        async for spots, below in self._candidates():
            waits = {spot.seq: waits for spot, waits in spots.items()}
            async for seq, record in self._records(list(spots)):
                if page.is_full:
                    await self._stop(seq + 1, complete=True)
                    return
                # Where the settlements are forgotten already, it only looks as if nobody had tried it.
                if waits[seq] or record.state is not State.ACCEPTED:
                    page.take(record)
            if below and self._is_over():
                await self._stop(below, complete=False)
                return

    async def _records(self, spots: Sequence[Spot]) -> AsyncIterator[tuple[int, EventRecord]]:
        """Those that are there, newest first."""
        for first in range(0, len(spots), _RECORDS):
            found = await reading.records(self._connection, spots[first : first + _RECORDS], self._horizons)
            for seq in sorted(found, reverse=True):
                yield seq, found[seq].record

    async def _stop(self, below: int, *, complete: bool) -> None:
        oldest = await self._connection.fetchrow(_ACCEPTED_FROM, below)
        self._page.stop(below, None if oldest is None else oldest["accepted_ms"], complete=complete)

    async def _fresh(self) -> None:
        """What nobody has tried yet, and is not in the index."""
        owners = self._query.owners
        streams = _ALL_STREAMS
        if owners is not None:
            streams = sorted({stream_of(owner, urgent) for owner in owners for urgent in (False, True)})
        known = await self._connection.fetch(_KNOWN, streams)
        columns = [[row[name] for row in known] for name in ("stream", "xid", "seq")]
        rows = await self._connection.fetch(_FRESH, *columns, min(row["day"] for row in known) - 1)
        found = await reading.records(self._connection, [Spot(*row) for row in rows], self._horizons)
        for seq in sorted(found, reverse=True):
            # What is parked without an attempt is settled, and will be in the index.
            if not self._page.is_full and found[seq].record.state is State.ACCEPTED:
                self._page.take(found[seq].record)

    async def _candidates(self) -> AsyncIterator[tuple[_Spots, int]]:
        """Events that may match, newest first, some at a time, and below which number it goes on; 0 where it does
        not."""
        lowest, highest = await self._bounds()
        below = min(self._page.below, highest)
        while below > lowest:
            spots, below = await self._chunk(below, lowest)
            yield spots, below

    async def _chunk(self, below: int, lowest: int) -> tuple[_Spots, int]:
        """The next of them, and below which number what follows lies; 0 where nothing does."""
        query, owners = self._query, self._query.owners
        from_ms = 0 if query.from_ms is None else query.from_ms
        until_ms = END if query.until_ms is None else query.until_ms

        async def fetch(statement: str, *values: Any, floor: int = lowest) -> tuple[_Spots, int]:
            rows = await self._connection.fetch(statement, below, floor, from_ms, until_ms, *values)
            return {Spot(*spot): waits for *spot, waits in rows}, rows[-1]["seq"] if len(rows) == CHUNK else 0

        if owners is not None:
            keys = sorted({key_of(owner) for owner in owners})
            return await fetch(_OF_OWNERS, keys, self._shapes)
        if self._is_every_shape:
            return await fetch(_EVERYTHING)
        if len(self._shapes) <= _MOST_BY_SHAPE:
            return await fetch(_OF_SHAPES, self._shapes)
        floor = max(lowest, below - _WINDOW)
        spots, after = await fetch(_IN_ORDER, self._shapes, floor=floor)
        return spots, after or (floor if floor > lowest else 0)

    async def _bounds(self) -> tuple[int, int]:
        """Between which numbers the events lie that were accepted in the time asked for, and some others."""
        query = self._query
        first, last = await self._connection.fetchrow(_ENDS)
        if first is None:
            return 0, 0
        lowest, highest = first, last + 1
        if query.from_ms is not None:
            lowest, _ = await self._around(query.from_ms - SLACK_MS, lowest, highest)
        if query.until_ms is not None:
            _, highest = await self._around(query.until_ms + SLACK_MS, lowest, highest)
        return lowest, highest

    async def _around(self, at_ms: int, low: int, high: int) -> tuple[int, int]:
        """Between these numbers is the first from which on events were accepted at `at_ms` or later."""
        while high - low > _WINDOW:
            middle = (low + high) // 2
            row = await self._connection.fetchrow(_ACCEPTED_FROM, middle)
            if row is None or row["accepted_ms"] >= at_ms:
                high = middle
            else:
                low = row["seq"] + 1
        return low, high
