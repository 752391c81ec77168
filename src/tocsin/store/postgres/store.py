"""Every port on one PostgreSQL database, and what a node does beside: heartbeats, its share of the logs, signals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final

import structlog

from tocsin.domain.events import UserId
from tocsin.domain.nodes import NodeStatus
from tocsin.store.clock import ClockWatch
from tocsin.store.leases import Leases
from tocsin.store.ports import StorageFailure, StoreError, StoreUnavailable, WriteFailure
from tocsin.store.postgres import nodes, partitions, replication, schema
from tocsin.store.postgres.access import PostgresAccess
from tocsin.store.postgres.audit import PostgresAudit
from tocsin.store.postgres.backlog import PostgresBacklog
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database, Target
from tocsin.store.postgres.contents import Contents
from tocsin.store.postgres.credentials import PostgresCredentials
from tocsin.store.postgres.erasures import Erasures
from tocsin.store.postgres.event_log import PostgresEventLog
from tocsin.store.postgres.fresh import FreshEvents
from tocsin.store.postgres.freshness import Freshness
from tocsin.store.postgres.horizons import Horizons
from tocsin.store.postgres.housekeeping import Housekeeping
from tocsin.store.postgres.jobs import PostgresJobs
from tocsin.store.postgres.options import PostgresOptions
from tocsin.store.postgres.ownership import Ownership
from tocsin.store.postgres.places import day_of
from tocsin.store.postgres.positions import PostgresPositions
from tocsin.store.postgres.pseudonyms import PostgresPseudonyms
from tocsin.store.postgres.queue import PostgresQueue, SessionClaims
from tocsin.store.postgres.registry import PostgresRegistry
from tocsin.store.postgres.schedule import PostgresSchedule
from tocsin.store.postgres.search import PostgresSearch
from tocsin.store.postgres.session import Session
from tocsin.store.postgres.signals import Erasing, PostgresSignals, ReadElsewhere, Recount, Revived, Within
from tocsin.store.postgres.users import PostgresUsers
from tocsin.store.postgres.wakes import SIGNALS, Wakes
from tocsin.store.records import Replica, Retention
from tocsin.store.sealer import Sealer

log = structlog.get_logger(__name__)

_BEAT_EVERY_S: Final = 0.25
_LOOK_AFTER_EVERY_S: Final = 1.0
_STUCK_S: Final = 5.0
"""A settlement that takes longer is not waited for any more: its server acknowledges nothing."""
_UNREAD_S: Final = 6.0
"""A node that cannot read signals for so long sends nothing: others take its logs, with its session."""
_QUICKLY_COUNTED: Final = 200_000
"""Events that are counted within some tenths of a second."""
_BEATS_TO_BE_TRUSTED: Final = 8
"""A node whose own heartbeats have succeeded so often in a row may end the session of one that sends none."""


class PostgresStore:
    """See `ports.Store`. Made by `opening.open_store`."""

    def __init__(
        self,
        name: str,
        database: Database,
        session_target: Target,
        options: PostgresOptions,
        sealer: Sealer,
        *,
        server: bool,
    ) -> None:
        self.name = name
        self.database = database
        self.commits = database.commits
        self._options = options
        self._session_target = session_target
        self.clock = clock = DatabaseClock(options.monotonic, options.wall_clock, options.host_clock)
        self._statuses = nodes.Statuses(database)
        self._wakes = Wakes(database)
        session = Session(session_target, self._notified)
        self.session = session if server else None
        self.ownership = Ownership(session, options.random, options.fresh_s, options.monotonic)
        self.freshness = Freshness(options.fresh_s, options.monotonic)
        self.signals = PostgresSignals(database, options.random.getrandbits(62), options.monotonic)
        leases = Leases(options.lease_s, options.monotonic)
        self.pseudonyms = PostgresPseudonyms(database, sealer, options.random.randbytes)
        self.audit = PostgresAudit(database, options.chain, clock, self.pseudonyms)
        erasures = Erasures(options.monotonic)
        self._erasures = erasures
        contents = Contents(database, sealer, options.random.randbytes, clock.now_ms)
        claims = SessionClaims(leases, ClockWatch(clock.wall, options.monotonic), self.session)
        self._horizons = Horizons()
        self.search = PostgresSearch(database, self._horizons, clock.now_ms, options.monotonic, is_on=options.search)
        self._backlog = PostgresBacklog(database, options.max_events, options.max_bytes, options.monotonic)
        self.registry = PostgresRegistry(
            database,
            self.signals,
            self._wakes,
            clock,
            options.random,
            lambda log: log in self.ownership.held,
            self.audit,
        )
        self.schedule = PostgresSchedule(
            database, self.session, self.ownership, claims, leases, self.signals, clock.now_ms, contents
        )
        fresh = FreshEvents(
            database,
            self.ownership,
            leases,
            lambda: day_of(clock.now_ms()),
            self.registry.changed,
            contents,
            options.monotonic,
        )
        self._fresh = fresh
        self.queue = PostgresQueue(
            database,
            self.session,
            self.ownership,
            claims,
            leases,
            self.schedule,
            fresh,
            self._backlog,
            self.freshness,
            self._wakes,
            clock,
            contents,
            erasures,
            self.notice_signals,
        )
        self.log = PostgresEventLog(
            database, self.signals, self._wakes, clock, self._horizons, contents, self.audit, self._revive
        )
        self.access = PostgresAccess(database, self.signals, self._wakes, clock, self.audit)
        self.credentials = PostgresCredentials(database, self.signals, self._wakes, sealer, self.audit)
        self.jobs = PostgresJobs(database, lambda: self.ownership.node, clock.now_ms, options.random, self.audit)
        self.positions = PostgresPositions(database)
        self._housekeeping = Housekeeping(database, session_target, self._horizons, clock, options.monotonic)
        self.users = PostgresUsers(
            database, self.session, self.ownership, self.signals, self._wakes, self.audit, self._erased, self._recount
        )
        self._told: list[Revived | Recount] = []
        self.signals.when_within(self._told_within)
        self._tasks: list[asyncio.Task[None]] = []
        self._read_signals = asyncio.Event()
        self._noticing = asyncio.Lock()
        self._ahead_to = 0
        self._reads_elsewhere: str | None = None
        """Why what is read is of no use, since the last heartbeat."""
        self._noticed_at = options.monotonic()
        """When all signals before a heartbeat were read last."""
        self._changing_hands = asyncio.Lock()
        """Held while logs are taken, given up, or taken up on a new session: one of them after the other."""
        self._is_counted = True
        """Whether the backlog counts what this node's logs hold."""
        self._is_doubted = False
        """A session was lost since it was counted: some of it may have been read from a server that was the primary."""

    def now_ms(self) -> int:
        return self.clock.now_ms()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        try:
            await self._begin()
        except WriteFailure as error:
            raise StorageFailure(self.name, str(error)) from None
        self._tasks = [
            self._task(self._keep_beating, "heartbeats"),
            self._task(self._keep_looking_after, "logs of this node"),
            self._task(self._keep_noticing, "noticing other processes"),
        ]

    async def _begin(self) -> None:
        session = self.session
        assert session is not None, "opened for a command"
        await session.connect()
        name, delivers = self._options.node_name(), self._options.delivers
        node = await session.run(lambda one: nodes.register(one, name, delivers), transaction=False)
        if not await self.database.read(lambda one: nodes.is_locked(one, node)):
            raise StoreError(f"{self.name}: store.session_url leads to another database than store.url; correct it")
        await session.run(lambda one: schema.know(one, self.name), transaction=False)
        # Again, now that this node's lock is there: whoever moves a store to this database looks for it.
        await self.database.read(lambda one: schema.refuse_moving(one, self.name))
        self.ownership.node = self._statuses.node = node
        await self.signals.start()
        await self.database.read(self._horizons.read)
        await self._backlog.start(day_of(self.now_ms()))
        await self.beat()
        await self.rebalance()
        await self.beat()

    async def close(self) -> None:
        await self.stop_duties()
        await self._wakes.close()
        session = self.session
        if session is not None and session.is_connected:
            with contextlib.suppress(WriteFailure):
                await session.run(self._fresh.write_low_water)
                await self.ownership.release(list(self.ownership.held))
                await session.run(lambda one: nodes.leave(one, self.ownership.node))
            await session.close()
        await self.database.close()

    async def abandon(self) -> None:
        """As the end of the process would: nothing is ended in order."""
        await self.stop_duties()
        self._wakes.abandon()
        if self.session is not None:
            self.session.end("abandoned")
        self.database.abandon()

    # -- ports.Store ---------------------------------------------------------------------------------------------------

    async def size_bytes(self) -> int:
        size: int = await self.database.read(
            lambda connection: connection.fetchval("SELECT pg_database_size(current_database())")
        )
        return size

    async def replicas(self) -> list[Replica]:
        return await self.database.read(replication.replicas)

    def failures(self) -> list[str]:
        session, found = self.session, []
        if session is not None and not session.is_connected:
            found.append(f"the database cannot be used: {session.failure or 'there is no session with it'}")
        elif self._reads_elsewhere is not None:
            found.append(f"the database cannot be used: {self._reads_elsewhere}")
        elif self.database.failure is not None:
            found.append(f"the database cannot be used: {self.database.failure}")
        return found

    async def prune(self, retention: Retention, *, for_s: float = 1.0) -> bool:
        return await self._housekeeping.prune(retention, for_s=for_s)

    async def publish(self, status: NodeStatus) -> None:
        await self._statuses.publish(status)

    async def nodes(self) -> list[NodeStatus]:
        return await self._statuses.all()

    # -- now and then --------------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """One heartbeat, and all signals that were committed before it. Raises WriteFailure."""
        try:
            sent_at, database_s = await self._send_heartbeat()
            await self._notice_before(database_s)
        except BaseException:
            self.freshness.failed()
            raise
        self.freshness.acknowledged(sent_at)
        self.queue.look_again()

    async def _send_heartbeat(self) -> tuple[float, float]:
        """When it was sent, and when it was acknowledged: seconds of the monotonic clock, and of the database's."""
        session = self.session
        assert session is not None
        sent_at = 0.0

        async def beat(connection: Connection) -> float:
            nonlocal sent_at
            sent_at = self._options.monotonic()
            async with asyncio.timeout(max(1.0, self._options.fresh_s)):
                return await nodes.beat(
                    connection, self.ownership.node, self._backlog.own_events, self._backlog.own_bytes
                )

        try:
            database_s = await session.run(beat, transaction=False, wait_s=_STUCK_S)
        except WriteFailure:
            self._leave_this_host("it acknowledged no heartbeat in time")
            raise
        self.clock.seen(database_s, sent_at)
        return sent_at, database_s

    async def _notice_before(self, beat: float) -> None:
        """What was signalled before this heartbeat. Where it cannot be read, the session stays for a while, so that
        what is on its way is settled on it: PgBouncer may be down, which the session goes past."""
        now = self._options.monotonic()
        try:
            await self.notice_signals(beat)
        except StoreUnavailable as error:
            if isinstance(error, ReadElsewhere):
                self._reads_elsewhere = str(error)
                if self._options.session_url is None:
                    self._leave_this_host(str(error))
                else:
                    self.database.renew()
            if now - self._noticed_at > _UNREAD_S:
                assert self.session is not None
                self.session.end("what other processes have changed cannot be read")
            raise
        self._reads_elsewhere, self._noticed_at = None, now

    def _leave_this_host(self, why: str) -> None:
        """It may be an old primary that is cut off."""
        assert self.session is not None
        self.session.end(why)
        self._session_target.hosts.leave()
        self.database.renew()

    async def notice_changes(self) -> None:
        """Returns when everything is known that other processes have committed. Raises StoreUnavailable."""
        await self.notice_signals()
        await self.schedule.woken()
        self.queue.look_again()
        await self.queue.backlog()

    async def notice_signals(self, beat: float = 0.0) -> None:
        """Raises as `PostgresSignals.notice`, which says what `beat` is."""
        async with self._noticing:
            await self.signals.notice(self.ownership.node, beat)
            while self._told:
                one = self._told.pop(0)
                if isinstance(one, Revived):
                    await self._revive(one)
                else:
                    await self._recount(one.logs)

    def _told_within(self, told: Within) -> None:
        if isinstance(told, Erasing):
            self._erased(told.owner)
        else:
            self._told.append(told)

    def _erased(self, owner: UserId) -> None:
        """Nothing of this user that is remembered here is true any more."""
        self._erasures.add(owner)
        self.registry.changed([owner])
        self.access.forget()

    async def rebalance(self) -> None:
        """Take as many logs as are this node's share, and give up what is more: a log is given up when nothing of it is
        out. Raises WriteFailure."""
        if self._options.delivers:
            async with self._changing_hands:
                await self._rebalance()

    async def _rebalance(self) -> None:
        await self._count_again()
        held, share = self.ownership.held, await self.ownership.fair_share()
        staying = [number for number, one in held.items() if not one.leaving]
        for number in staying[share:]:
            held[number].leaving = True
        if len(staying) < share:
            for number in [number for number, one in held.items() if one.leaving][: share - len(staying)]:
                held[number].leaving = False
                staying.append(number)
        if any(one.leaving for one in held.values()):
            # What a claim on its way has read would be out when its log is another node's.
            async with self.queue.without_claims():
                await self._give_up_leaving()
        if len(staying) < share:
            await self.ownership.take(share - len(staying))
        # Those that were taken now, and those whose takeover has failed before.
        if unread := self.queue.not_taken_over():
            self.registry.forget()
            await self.queue.take_over(unread)

    async def _give_up_leaving(self) -> None:
        held, session = self.ownership.held, self.session
        assert session is not None
        going = [number for number, one in held.items() if one.leaving and self.queue.is_settled(number)]
        if not going:
            return
        await session.run(self._fresh.write_low_water)
        try:
            await self.queue.give_up(going)
        except Exception:
            self._is_counted = False
            raise
        try:
            await self.ownership.release(going)
        finally:
            self.registry.forget()
        await self.schedule.refresh()

    async def look_after(self) -> None:
        """What is to be done once a second. Raises WriteFailure."""
        session = self.session
        assert session is not None
        await self.rebalance()
        await session.run(self._fresh.write_low_water)
        await self.schedule.wake_here()
        await self.queue.backlog()
        await self._backlog.ask_others(self.ownership.node, delivers=self._options.delivers)
        await self.database.read(self._horizons.read)
        today = day_of(self.now_ms())
        if self._ahead_to < today + partitions.AHEAD_DAYS:
            make = partial(partitions.make, first_day=today, last_day=today + partitions.AHEAD_DAYS)
            await self.database.write(make)
            await self.database.write(nodes.forget_old)
            self._ahead_to = today + partitions.AHEAD_DAYS
        if self.freshness.in_a_row >= _BEATS_TO_BE_TRUSTED:
            await self.ownership.end_stalled_nodes()

    async def come_back(self) -> None:
        """A new session after one was lost: what nobody else has taken is still this node's. Raises WriteFailure."""
        session = self.session
        assert session is not None
        self.freshness.failed()
        self.database.renew()
        async with self._changing_hands:
            async with session.taken_up():
                await session.connect()
                try:
                    lost = await self._take_up(session)
                except Exception:
                    # On a session that was not taken up in full locks may be missing, though logs count as held.
                    session.end("the session could not be taken up")
                    raise
                log.info("a new session with the database", logs=len(self.ownership.held), lost=len(lost))
                self.registry.forget()
                self.access.forget()
                self.credentials.forget()
                self.queue.lost(lost)
            self._is_counted, self._is_doubted = self._is_counted and not lost, True
            await self._count_again()

    async def _take_up(self, session: Session) -> list[int]:
        """Be on this session the node that it was on the one before; returns the logs that are lost."""
        again = partial(
            nodes.register_again,
            number=self.ownership.node,
            name=self._options.node_name(),
            application=self._session_target.application,
            delivers=self._options.delivers,
        )
        await session.run(again, transaction=False)
        try:
            await session.run(lambda one: schema.know(one, self.name), transaction=False)
        except StoreError as error:
            session.end(str(error))
            raise StoreUnavailable(str(error)) from None
        return await self.ownership.take_again()

    async def _recount(self, logs: Collection[int]) -> None:
        """Events of these logs are gone that waited."""
        if any(log in self.ownership.held for log in logs):
            self._is_counted = False
            await self._count_again()

    async def _count_again(self) -> None:
        """Where it is not certain what this node's logs hold. What is only doubted can wait until it is done quickly,
        and until nothing is out: what is settled with an unknown outcome would be subtracted twice."""
        session = self.session
        doubted = self._is_doubted and self.queue.has_nothing_out() and self._backlog.own_events < _QUICKLY_COUNTED
        if session is None or (self._is_counted and not doubted):
            return
        before = self._is_counted, self._is_doubted
        self._is_counted, self._is_doubted = True, False
        try:
            await self._backlog.recount(session, self._fresh.numbers)
            await self.schedule.refresh()
        except Exception:
            self._is_counted, self._is_doubted = self._is_counted and before[0], self._is_doubted or before[1]
            raise

    async def _revive(self, revived: Revived) -> None:
        own = [counted for number, counted in revived.logs.items() if number in self.ownership.held]
        if own:
            self._backlog.revived(sum(events for events, _ in own), sum(size for _, size in own))
            try:
                await self.schedule.refresh()
            except Exception:
                self._is_counted = False  # it is looked at again, or nobody would claim them
                raise

    def _notified(self, payload: str) -> None:
        """Another process has told of logs, or of signals."""
        words = payload.split()
        if SIGNALS in words:
            self._read_signals.set()
        self.queue.look_again([int(word) for word in words if word.isdigit()])

    async def _keep_beating(self) -> None:
        session = self.session
        assert session is not None
        while True:
            await asyncio.sleep(_BEAT_EVERY_S)
            try:
                if not session.is_connected:
                    await self.come_back()
                await self.beat()
            except WriteFailure as error:
                log.debug("no heartbeat", error=str(error))

    async def _keep_looking_after(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AFTER_EVERY_S)
            if self.session is not None and self.session.is_connected:
                with contextlib.suppress(WriteFailure):
                    await self.look_after()

    async def _keep_noticing(self) -> None:
        while True:
            await self._read_signals.wait()
            self._read_signals.clear()
            with contextlib.suppress(WriteFailure):
                await self.notice_signals()

    def _task(self, duty: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        async def kept() -> None:
            while True:
                try:
                    await duty()
                except Exception:
                    # Without its duties a node would send nothing, and keep what it has from others.
                    log.exception("a duty of the store has failed; it begins again", duty=name)
                    if self.session is not None:
                        self.session.end("a duty of the store has failed")
                    await asyncio.sleep(_LOOK_AFTER_EVERY_S)

        return asyncio.create_task(kept(), name=name)

    async def stop_duties(self) -> None:
        """Do nothing by itself any more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
