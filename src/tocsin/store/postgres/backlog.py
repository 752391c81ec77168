"""How much waits: what this node's logs hold, what it has appended since that was counted, and what others say of
theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tocsin.store.backlog import BacklogBound
from tocsin.store.counted import Counted
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.places import LOGS, XMIN, streams_of
from tocsin.store.postgres.session import Session

# Everything of these streams that is neither settled nor parked, below a transaction's number.
_FRESH: Final = """SELECT coalesce(count(*), 0), coalesce(sum(event.size), 0) FROM low_water AS low
    JOIN event ON event.stream = low.stream AND (event.xid, event.seq) > (low.xid, low.seq) AND event.day >= low.day - 1
    WHERE low.stream = ANY($1::smallint[]) AND event.xid < $2 AND event.id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM settlement WHERE settlement.stream = event.stream AND settlement.xid = event.xid
            AND settlement.seq = event.seq AND settlement.unit = 0)"""
_PARKED: Final = """SELECT coalesce(count(*), 0), coalesce(sum(size), 0) FROM (
    SELECT DISTINCT stream, xid, seq, size FROM parked WHERE stream = ANY($1::smallint[])) AS waiting"""
_NEW: Final = f"""SELECT {XMIN}, count(event.id), coalesce(sum(event.size) FILTER (WHERE event.id IS NOT NULL), 0)
    FROM unnest($1::smallint[]) AS own(stream) JOIN event ON event.stream = own.stream
        AND event.xid >= $2 AND event.xid < {XMIN} AND event.day >= $3"""
_OTHERS: Final = """SELECT coalesce(sum(backlog_events), 0)::bigint, coalesce(sum(backlog_bytes), 0)::bigint,
        coalesce(bool_or(delivers), false) FROM node
    WHERE number <> $1 AND beat_at > clock_timestamp() - interval '10 s'"""
_BEYOND: Final = 2**62
ALL_STREAMS: Final = [stream for log in range(LOGS) for stream in streams_of(log)]


class PostgresBacklog(BacklogBound):
    """See `BacklogBound`. An event is counted with its log as soon as all transactions before its own have ended."""

    def __init__(self, database: Database, max_events: int, max_bytes: int, monotonic: Callable[[], float]) -> None:
        super().__init__(max_events, max_bytes, monotonic)
        self._database = database
        self.own_events = 0
        self.own_bytes = 0
        self._counted_to = 0
        """Of the own logs everything below this transaction's number is counted."""
        self._appended: list[tuple[int, int, int]] = []
        """What this process has appended since: the transaction's number, events and bytes."""
        self._others = (0, 0)
        self._all = Counted(lambda: database.read(count_all))
        self._day = 0
        self._counting = asyncio.Lock()
        """What is counted, and up to which transaction, changes together."""

    async def measure(self, events: int, size_bytes: int) -> None:
        self._events, self._bytes = await self._database.read(count_all)

    # -- what this node's logs hold ------------------------------------------------------------------------------------

    async def start(self, day: int) -> None:
        self._day = day
        self._counted_to = await self._database.read(lambda one: one.fetchval(f"SELECT {XMIN}"))
        self.is_followed = True

    async def taken(self, streams: Sequence[int], sign: int = 1) -> None:
        """These streams have become this node's, or (`sign` -1) are not any more. Nothing is changed where it fails."""
        async with self._counting:
            events, size = await self._database.read(lambda one: count(one, streams, self._counted_to))
            self._own(sign * events, sign * size)

    async def recount(self, session: Session, streams: Callable[[], Sequence[int]]) -> None:
        """What this node has counted of its streams is not reliable. They are counted on the session on which it
        settles: no settlement is done and not noted meanwhile. Nothing is changed where it fails."""

        async def look(connection: Connection) -> tuple[int, int, int]:
            to: int = await connection.fetchval(f"SELECT {XMIN}")
            return to, *await count(connection, streams(), to)

        async with self._counting:
            to, events, size = await session.run(look, transaction=False)
            self._own(events - self.own_events, size - self.own_bytes)
            self._counted(to)

    async def count_new(self, streams: Callable[[], Sequence[int]], day: int) -> None:
        """Count what has come to this node's streams since the last time, by whichever process. `day` is today."""
        async with self._counting:
            await self._count_new(streams(), day)

    async def _count_new(self, streams: Sequence[int], day: int) -> None:
        counted_to, since_day = self._counted_to, min(self._day, day) - 1
        to, events, size = await self._database.read(lambda one: one.fetchrow(_NEW, streams, counted_to, since_day))
        if to < counted_to:
            return  # read from a server that is behind: an old primary, most likely
        self._day = day
        self._own(events, int(size))
        self._counted(to)

    def _counted(self, to: int) -> None:
        """Everything below this transaction is counted with its log: not as something appended any more."""
        self._counted_to = to
        for _, events, size in (one for one in self._appended if one[0] < to):
            self._events -= events
            self._bytes -= size
        self._appended = [one for one in self._appended if one[0] >= to]

    async def ask_others(self, node: int, *, delivers: bool) -> None:
        """`delivers`: whether this node does. Where none does, nobody counts what the logs hold: then it is all
        counted, now and then."""
        events, size, others_deliver = await self._database.read(lambda one: one.fetchrow(_OTHERS, node))
        if not (delivers or others_deliver):
            events, size = await self._all.get()
        self._events += events - self._others[0]
        self._bytes += size - self._others[1]
        self._others = (events, size)

    def appended(self, xid: int, events: int, size_bytes: int) -> None:
        """So much was appended by this process, which has counted it already."""
        if events and self.is_followed:
            self._appended.append((xid, events, size_bytes))

    def revived(self, events: int, size_bytes: int) -> None:
        """Dead letters of this node's logs wait again."""
        self._own(events, size_bytes)

    def finished(self, sizes: Iterable[int]) -> None:
        sizes = list(sizes)
        self.own_events -= len(sizes)
        self.own_bytes -= sum(sizes)
        super().finished(sizes)

    def _own(self, events: int, size_bytes: int) -> None:
        self.own_events += events
        self.own_bytes += size_bytes
        self.count(events, size_bytes)


async def count_all(connection: Connection) -> tuple[int, int]:
    """How many events wait in all streams, and their size."""
    return await count(connection, ALL_STREAMS, _BEYOND)


async def count(connection: Connection, streams: Sequence[int], below_xid: int) -> tuple[int, int]:
    """How many events of these streams wait, and their size."""
    fresh, fresh_size = await connection.fetchrow(_FRESH, streams, below_xid)
    parked, parked_size = await connection.fetchrow(_PARKED, streams)
    return fresh + parked, int(fresh_size) + int(parked_size)
