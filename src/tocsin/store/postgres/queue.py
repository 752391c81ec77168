"""EventQueue on PostgreSQL: what is accepted is in the log of its owner, and who holds the log delivers it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Final

from tocsin.domain.events import Event
from tocsin.store.appending import Appender
from tocsin.store.claims import Claims
from tocsin.store.clock import TOLERATED_MS, ClockWatch
from tocsin.store.leases import Leases, leases_of
from tocsin.store.ports import CommitUnknown, LostItems, StoreUnavailable
from tocsin.store.postgres import partitions, settle_sql
from tocsin.store.postgres.append_sql import PostgresInserts
from tocsin.store.postgres.backlog import ALL_STREAMS, PostgresBacklog, count_all
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.contents import Contents
from tocsin.store.postgres.erasures import Erasures
from tocsin.store.postgres.fresh import LOW_WATER, FreshEvents
from tocsin.store.postgres.freshness import Freshness
from tocsin.store.postgres.ownership import Ownership
from tocsin.store.postgres.places import LogLease, day_of, streams_of
from tocsin.store.postgres.schedule import PostgresSchedule
from tocsin.store.postgres.session import Session
from tocsin.store.postgres.settle_sql import Place, Work
from tocsin.store.postgres.wakes import Wakes
from tocsin.store.records import Backlog, Item, Settlement, WholeBacklog
from tocsin.store.settling import Settling

_LOOK_AGAIN_S: Final = 0.002
_LOOKS: Final = 20
# Among the newest rows of each stream: where nobody sends urgent events it holds marks alone, and very many of them.
_NEWEST_ACCEPTED: Final = """SELECT max(one.accepted_ms) FROM unnest($1::smallint[]) AS own(stream) CROSS JOIN LATERAL (
    SELECT accepted_ms FROM (SELECT id, accepted_ms, xid, seq FROM event WHERE event.stream = own.stream
        ORDER BY xid DESC, seq DESC LIMIT 100) AS newest
    WHERE id IS NOT NULL ORDER BY xid DESC, seq DESC LIMIT 1) AS one"""
# Of this node's logs: what is neither settled nor parked, and the events of what is parked. Not by NOT EXISTS: all that
# is on record would be read.
_OLDEST: Final = """SELECT least(
    (SELECT min(one.accepted_ms) FROM unnest($1::smallint[], $2::int[], $3::bigint[], $4::bigint[])
            AS low(stream, day, xid, seq) CROSS JOIN LATERAL (
        SELECT event.accepted_ms FROM event WHERE event.stream = low.stream
            AND (event.xid, event.seq) > (low.xid, low.seq) AND event.day >= low.day - 1 AND event.id IS NOT NULL
            AND (SELECT true FROM settlement
                WHERE settlement.stream = event.stream AND settlement.xid = event.xid AND settlement.seq = event.seq
                    AND settlement.unit = 0 LIMIT 1) IS NULL
        ORDER BY event.xid, event.seq LIMIT 1) AS one),
    (SELECT min(coalesce(kept.accepted_ms, event.accepted_ms)) FROM parked
        LEFT JOIN kept ON kept.stream = parked.stream AND kept.xid = parked.xid AND kept.seq = parked.seq
        LEFT JOIN event ON event.day = parked.day AND event.stream = parked.stream AND event.xid = parked.xid
            AND event.seq = parked.seq
        WHERE parked.stream = ANY($1::smallint[])))"""


class SessionClaims(Claims):
    """Nothing is given out while the session is gone: it could not be settled."""

    def __init__(self, leases: Leases, clock: ClockWatch, session: Session | None) -> None:
        super().__init__(leases, clock)
        self._session = session

    async def can_settle(self) -> None:
        if self._session is None or not self._session.is_connected:
            self._leases.stand_still()
            failure = None if self._session is None else self._session.failure
            raise StoreUnavailable(failure or "this process holds no session with the database")


class PostgresQueue:
    """See `ports.EventQueue`. Not safe to share between event loops."""

    def __init__(
        self,
        database: Database,
        session: Session | None,
        ownership: Ownership,
        claims: Claims,
        leases: Leases,
        schedule: PostgresSchedule,
        fresh: FreshEvents,
        backlog: PostgresBacklog,
        freshness: Freshness,
        wakes: Wakes,
        clock: DatabaseClock,
        contents: Contents,
        erasures: Erasures,
        notice_signals: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._session = session
        self._ownership = ownership
        self._claims = claims
        self._leases = leases
        self._schedule = schedule
        self._fresh = fresh
        self._bound = backlog
        self._freshness = freshness
        self._clock = clock
        self._contents = contents
        self._erasures = erasures
        self._notice_signals = notice_signals
        self.inserts = PostgresInserts(database, backlog, wakes, clock, contents)
        self._appender = Appender(self.inserts, backlog, claims.something.set)
        self._settling = Settling(leases, clock.now_ms, self._record)
        self._claiming = asyncio.Lock()
        wakes.when_appended(self._appended)

    # -- logs that come and go -----------------------------------------------------------------------------------------

    async def take_over(self, logs: Sequence[int]) -> None:
        """These logs are this node's now: read what is not settled of them. Where it fails, nothing is changed, and
        they are among `not_taken_over`."""
        streams = [stream for log in logs for stream in streams_of(log)]
        newest_ms = await self._database.read(lambda one: one.fetchval(_NEWEST_ACCEPTED, streams))
        # An event from the future: the clock was set back while nobody held its log.
        if newest_ms is not None and (ahead_ms := newest_ms - self._clock.now_ms()) > TOLERATED_MS:
            await self._schedule.bring_forward(ahead_ms, streams)
        else:
            await self._schedule.refresh()
        # Counted anew up to now: what came to these logs before may be settled already.
        await self._bound.count_new(self._fresh.numbers, day_of(self._clock.now_ms()))
        found = await self._fresh.look(streams)
        await self._bound.taken(streams)
        self._fresh.take(found)
        self._claims.something.set()

    def not_taken_over(self) -> list[int]:
        """Logs that are this node's and are to stay so, and that it does not read."""
        read = set(self._fresh.numbers())
        held = self._ownership.held.items()
        return [log for log, one in held if not one.leaving and read.isdisjoint(streams_of(log))]

    @contextlib.asynccontextmanager
    async def without_claims(self) -> AsyncIterator[None]:
        """Within, nothing is being claimed."""
        async with self._claiming, self._schedule.claiming:
            yield

    async def give_up(self, logs: Sequence[int]) -> None:
        """Read and count nothing more of these logs, of which nothing is out. They are to be released afterwards: what
        another node settles of them is then not among what was counted here."""
        # What was settled of them is counted by now, and is not subtracted twice.
        await self._bound.count_new(self._fresh.numbers, day_of(self._clock.now_ms()))
        read = set(self._fresh.numbers())
        streams = [stream for log in logs for stream in streams_of(log) if stream in read]
        self.lost(logs)
        await self._bound.taken(streams, -1)

    def lost(self, logs: Sequence[int]) -> None:
        """Somebody else may hold these by now: nothing of them may be sent any more."""
        streams = [stream for log in logs for stream in streams_of(log)]
        self._fresh.drop(streams)
        self._leases.lose(self._is_lost)
        self._schedule.dropped(streams)

    def is_settled(self, log: int) -> bool:
        """Whether nothing of this log is out."""
        return not any(
            isinstance(lease, LogLease) and lease.stream >> 1 == log for lease in self._leases.all()
        ) and not (any(self._fresh.anything_open(stream) for stream in streams_of(log)))

    def has_nothing_out(self) -> bool:
        """Whether nothing is claimed and not settled, nor settled with an unknown outcome."""
        return not any(True for _ in self._leases.all())

    def look_again(self, logs: Collection[int] | None = None) -> None:
        """There may be something new in these logs (None: in all of this node's)."""
        streams = None if logs is None else [stream for log in logs for stream in streams_of(log)]
        if self._fresh.look_again(streams):
            self._claims.something.set()

    def _appended(self, logs: Collection[int]) -> Collection[int]:
        self.look_again(logs)
        return [log for log in logs if log not in self._ownership.held]

    def _is_lost(self, lease: object) -> bool:
        return isinstance(lease, LogLease) and not self._ownership.holds(lease.stream, lease.epoch)

    # -- ports.EventQueue ----------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[Event]) -> None:
        await self._appender.append(events)

    async def claim(self, limit: int) -> list[Item]:
        return await self._claims.to_the_end(self._claim(limit))

    async def _claim(self, limit: int) -> list[Item]:
        items: list[Item] = []
        async with self._claiming:
            self._claims.something.clear()
            await self._claims.prepare()
            try:
                for _ in range(_LOOKS):
                    await self._fresh.claim(items, limit)
                    await self._hear_of_marks()
                    if items:
                        break
                    if self._fresh.is_held_up:
                        await asyncio.sleep(_LOOK_AGAIN_S)  # a transaction is about to end
                    elif not self._fresh.may_have_more:
                        break
                    # Else changes of the registry were all that was read.
            except BaseException:
                self._claims.release(items)
                raise
            if self._fresh.may_have_more:
                self._claims.something.set()
        return items

    async def _hear_of_marks(self) -> None:
        """Else an earlier deletion could keep an event from a device that was registered before it."""
        if self._fresh.has_passed_marks:
            self._fresh.has_passed_marks = False  # unless logs are taken over meanwhile
            try:
                await self._notice_signals()
            except BaseException:
                self._fresh.has_passed_marks = True
                raise

    async def extend(self, items: Sequence[Item]) -> None:
        self._leases.extend(items)

    async def release(self, items: Sequence[Item]) -> None:
        self._claims.release(items)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        try:
            return await self._settling.settle(settlements)
        except BaseException:
            # What could not be settled is held again: not what was lost meanwhile.
            self._leases.lose(self._is_lost)
            raise

    async def wait(self, timeout_s: float) -> None:
        if self._fresh.is_held_up:
            await asyncio.sleep(min(timeout_s, _LOOK_AGAIN_S * _LOOKS))
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._claims.something.wait()
        except TimeoutError:
            pass

    async def backlog(self) -> Backlog:
        if self._bound.is_followed:
            await self._bound.count_new(self._fresh.numbers, day_of(self._clock.now_ms()))
        else:
            await self._bound.measure(0, 0)
        return self._bound.now()

    async def oldest_ms(self) -> int | None:
        # From what this process knows to be settled, which may be far ahead of what is on record as `low_water`.
        places = self._fresh.places()
        found: int | None = await self._database.read(lambda one: one.fetchval(_OLDEST, *places))
        return found

    def held_up_s(self) -> float:
        return self._fresh.held_up_s()

    def held(self) -> Backlog:
        return Backlog(max(0, self._bound.own_events), max(0, self._bound.own_bytes))

    async def whole_backlog(self) -> WholeBacklog:
        async def look(connection: Connection) -> WholeBacklog:
            events, size_bytes = await count_all(connection)
            places = zip(*await connection.fetch(LOW_WATER, ALL_STREAMS), strict=True)
            oldest_ms = await connection.fetchval(_OLDEST, *(list(column) for column in places))
            return WholeBacklog(events, size_bytes, oldest_ms)

        return await self._database.read(look)

    def may_send(self) -> bool:
        return self._freshness.is_fresh()

    def when_lost(self, lost: LostItems) -> None:
        self._leases.when_lost(lost)

    # -- settling ------------------------------------------------------------------------------------------------------

    async def _record(self, settlements: Sequence[Settlement], now_ms: int) -> None:
        assert self._session is not None
        leases = leases_of([settlement.item for settlement in settlements], LogLease)
        try:
            finished = await self._written(settlements, leases, now_ms)
        except CommitUnknown:
            for lease in leases:
                lease.may_be_settled = True
            raise
        sizes: dict[Place, int] = {}
        for settlement, lease in zip(settlements, leases, strict=True):
            self._fresh.settled(lease)
            if settlement.parked:
                self._schedule.parked(settlement.parked)
            if lease.place in finished:
                sizes[lease.place] = len(settlement.item.event.body)
        self._schedule.settled(
            (settlement.item.lane, lease.parked_id) for settlement, lease in zip(settlements, leases, strict=True)
        )
        self._bound.finished(sizes.values())

    async def _written(
        self, settlements: Sequence[Settlement], leases: Sequence[LogLease], now_ms: int
    ) -> Collection[Place]:
        """Write, on the session that holds the locks; returns the events that are settled for good."""
        session = self._session
        assert session is not None
        work = Work(settlements, leases, now_ms)
        erased = self._erasures.among(settlements, leases)
        if work.is_simple and not erased and not any(lease.may_be_settled for lease in leases):

            async def simply(connection: Connection) -> None:
                self._refuse_lost(leases)
                await settle_sql.settle_simply(connection, work)

            await partitions.made_where_missing(
                self._database, day_of(now_ms), lambda: session.run(simply, transaction=False)
            )
            return work.places

        async def settle(connection: Connection) -> set[Place]:
            self._refuse_lost(leases)
            pairs = list(zip(settlements, leases, strict=True))
            whole = to_do = work
            if erased and (gone := await settle_sql.gone(connection, erased)):
                pairs = [pair for pair in pairs if pair[1].place not in gone]
                whole = to_do = _work(pairs, now_ms)
            if doubtful := [lease for _, lease in pairs if lease.may_be_settled]:
                done = await settle_sql.on_record(connection, doubtful)
                to_do = _work([pair for pair in pairs if (*pair[1].place, pair[1].parked_id) not in done], now_ms)
                to_do.places |= whole.places
                to_do.uncertain |= {lease.place for lease in doubtful}
            return await settle_sql.settle(connection, to_do, self._contents)

        return await partitions.made_where_missing(self._database, day_of(now_ms), lambda: session.run(settle))

    def _refuse_lost(self, leases: Sequence[LogLease]) -> None:
        """Raises StoreUnavailable where a log was lost since its item was claimed, which its owner is then told."""
        if any(self._is_lost(lease) for lease in leases):
            raise StoreUnavailable("another node delivers some of it by now")


def _work(pairs: Sequence[tuple[Settlement, LogLease]], now_ms: int) -> Work:
    return Work([settlement for settlement, _ in pairs], [lease for _, lease in pairs], now_ms)
