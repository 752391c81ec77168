"""EventQueue on SQLite.

Fresh events are what `event` holds in state 0, in order of acceptance; what waits for a lane or a time is in `parked`.
The file belongs to one server process, so leases on fresh events live in memory: a process that dies gives back all
that it held. What ingest has just committed is handed on without reading it back.

Other processes may append to the file, replay and discard (the CLI does): `learn` is told what they have changed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from tocsin.domain.events import URGENT, Event, EventId
from tocsin.store.ports import (
    Backlog,
    BacklogFull,
    EventIdConflict,
    EventRecord,
    Item,
    NewEvent,
    Settlement,
    StoreUnavailable,
)
from tocsin.store.sqlite import claim_sql
from tocsin.store.sqlite import queue_sql as sql
from tocsin.store.sqlite.clock import TOLERATED_MS, ClockWatch
from tocsin.store.sqlite.database import Database, raw
from tocsin.store.sqlite.fresh import Fresh
from tocsin.store.sqlite.leases import Leases
from tocsin.store.sqlite.pace import Pace
from tocsin.store.sqlite.queue_sql import Append, Seen

T = TypeVar("T")


class SqliteQueue:
    """See `ports.EventQueue`. Not safe to share between event loops."""

    def __init__(
        self,
        database: Database,
        *,
        max_events: int,
        max_bytes: int,
        lease_s: float,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._wall_clock = wall_clock
        self._clock = ClockWatch(wall_clock, monotonic)
        self._appending: deque[tuple[Append, asyncio.Future[None]]] = deque()
        self._flushing = False
        self._streams = (Fresh(0), Fresh(1))
        self._leases = Leases(lease_s, monotonic)
        self._claiming = asyncio.Lock()
        self._turn = 0
        self._behind_ms = 0
        self._due: dict[str, int] = {}
        self._events = 0
        self._bytes = 0
        self._pace = Pace(monotonic)
        self._something = asyncio.Event()
        # What is known of the file: None until started, for only a server keeps count.
        self._seen: Seen | None = None
        self._newest = 0
        self._foreign: list[tuple[int, int]] = []

    async def start(self) -> None:
        """Take over the file: count the backlog, and give back what a dead process had claimed."""
        taken = await self._write(sql.take_over)
        self._events, self._bytes = taken.events, taken.size_bytes
        self._seen, self._newest, self._due = taken.seen, taken.seen.newest, dict(taken.seen.due)
        for stream in self._streams:
            stream.start(taken.cursor)
        # An event from the future: the clock was set back while nobody looked.
        if (ahead_ms := taken.newest_accepted_ms - self._now_ms()) > TOLERATED_MS:
            await self._bring_forward(ahead_ms)
        self._something.set()

    # -- append --------------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[NewEvent]) -> None:
        self._database.refuse_if_damaged()
        size = sum(len(new.event.body) for new in events)
        counted = (len(events), size)
        if self._is_too_much(*counted):
            # What was accepted before is no more work: its producer hears what it should have heard the first time.
            counted = await self._unknown(events)
            if self._is_too_much(*counted):
                # Worth another try when a tenth of the bound is free again.
                raise BacklogFull(self._pace.time_for_s(self._max_events / 10))
        self._count(*counted)
        append = Append(events, size, counted)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._appending.append((append, done))
        if not self._flushing:
            self._flushing = True
            flush = asyncio.create_task(self._flush())
            flush.add_done_callback(_raise_unexpected)
        # The commit goes on without a caller that has given up: what is durable is delivered.
        await asyncio.shield(done)

    def _is_too_much(self, events: int, size: int) -> bool:
        return self._events + events > self._max_events or self._bytes + size > self._max_bytes

    async def _unknown(self, events: Sequence[NewEvent]) -> tuple[int, int]:
        """How many of them are not on record yet, and their size."""
        given = [new.event.id for new in events if new.digest is not None]
        known = set(await self._read(partial(sql.known_ids, given=given))) if given else set()
        count = size = 0
        for new in events:
            if new.event.id not in known:
                count, size = count + 1, size + len(new.event.body)
                if new.digest is not None:
                    known.add(new.event.id)  # the same again in this batch is one event
        return count, size

    async def _flush(self) -> None:
        """Write what has gathered, again and again until nothing has: one commit at a time, whoever is in it."""
        try:
            while self._appending:
                taken = list(islice(self._appending, None))
                self._appending.clear()
                await self._commit(taken)
        finally:
            self._flushing = False

    async def _commit(self, batch: list[tuple[Append, asyncio.Future[None]]]) -> None:
        appends = [append for append, _ in batch]
        try:
            await self._write(lambda driver: sql.insert(driver, appends))
        except StoreUnavailable as error:
            _fail(appends, error)
        except Exception:
            # One producer's batch (an id of tocsin's own that is on record, a value that SQLite cannot take): that one
            # fails, those beside it do not.
            await self._commit_each(appends)
        for append, done in batch:
            self._hand_on(append)
            events, size = len(append.seqs), append.size_bytes
            if events < len(append.events):
                size = sum(len(event.body) for _, event in append.seqs)
            self._count(events - append.counted[0], size - append.counted[1])
            if append.error is None:
                done.set_result(None)
            else:
                done.set_exception(append.error)
        self._something.set()

    async def _commit_each(self, appends: Sequence[Append]) -> None:
        for append in appends:
            append.error, append.seqs = None, []
        for append in appends:
            try:
                await self._insert_alone(append)
            except Exception as error:
                _fail([append], error)

    async def _insert_alone(self, append: Append) -> None:
        try:
            await self._write(partial(sql.insert, appends=[append]))
        except sqlite3.IntegrityError:
            raise EventIdConflict(await self._read(partial(sql.first_known, append=append))) from None

    def _hand_on(self, append: Append) -> None:
        seqs = append.seqs
        if not seqs:
            return
        first, last = seqs[0][0], seqs[-1][0]
        if self._seen is not None and first > self._newest + 1:
            self._notice_foreign(first - 1)
        self._newest = last
        bulk, urgent = self._streams
        urgent.committed([pair for pair in seqs if pair[1].message in URGENT])
        bulk.committed([pair for pair in seqs if pair[1].message not in URGENT])

    def _count(self, events: int, size: int) -> None:
        self._events += events
        self._bytes += size

    # -- what other processes do ---------------------------------------------------------------------------------------

    def _notice_foreign(self, newest: int) -> None:
        """Another process has appended: its events are in the table only, and are not counted yet."""
        self._foreign.append((self._newest + 1, newest))
        self._newest = newest
        for stream in self._streams:
            stream.look_again()

    async def learn(self, seen: Seen) -> None:
        """Make what is in memory agree with what is in the file. `seen` comes fresh from the writer's thread."""
        if self._seen is None:
            return
        self._count(seen.revived_events - self._seen.revived_events, seen.revived_bytes - self._seen.revived_bytes)
        self._seen = seen
        self._due = dict(seen.due)
        if seen.newest > self._newest:
            self._notice_foreign(seen.newest)
        self._something.set()
        await self._count_foreign()

    async def _count_foreign(self) -> None:
        ranges, self._foreign = self._foreign, []
        if not ranges:
            return
        try:
            events, size = await self._read(lambda driver: sql.count(driver, ranges))
        except BaseException:
            self._foreign += ranges
            raise
        self._count(events, size)

    # -- claim ---------------------------------------------------------------------------------------------------------

    async def claim(self, limit: int, lanes: Mapping[str, int]) -> list[Item]:
        return await self._to_the_end(self._claim(limit, lanes))

    async def claim_expired(self, limit: int) -> list[Item]:
        return await self._to_the_end(self._claim_expired(limit))

    async def _to_the_end(self, claim: Coroutine[Any, Any, list[Item]]) -> list[Item]:
        """Without a caller that has given up, what was claimed for it goes back: nothing is held by nobody."""
        task = asyncio.ensure_future(claim)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._release_claimed)
            raise

    def _release_claimed(self, claim: asyncio.Future[list[Item]]) -> None:
        if not claim.cancelled() and claim.exception() is None:
            self.release(claim.result())

    async def _claim(self, limit: int, lanes: Mapping[str, int]) -> list[Item]:
        items: list[Item] = []
        async with self._claiming:
            self._something.clear()
            self._turn = (self._turn + 1) % 4  # a room of one cannot be divided: every fourth turn is the others'
            await self._can_settle()
            self._leases.end()
            try:
                await self._count_foreign()
                await self._claim_fresh(items, limit)
                await self._claim_parked(items, lanes)
            except BaseException:
                self.release(items)
                raise
            if self._has_more():
                self._something.set()
        return items

    async def _can_settle(self) -> None:
        """What cannot be settled is not given out: it would be delivered, and delivered again."""
        if self._database.write_fault is not None:
            self._leases.hold_on()
            if not await self._database.probe():
                raise StoreUnavailable(self._database.write_fault)

    async def _claim_fresh(self, items: list[Item], limit: int) -> None:
        """Urgent first, but a quarter is kept for the others as long as there are any."""
        kept = 0
        bulk, urgent = self._streams
        if self._leases.again[0] or bulk.may_have_more:
            kept = (limit + self._turn) // 4
        for stream, most in ((urgent, limit - kept), (bulk, limit), (urgent, limit)):
            again = self._leases.again[stream.urgent]
            while again and len(items) < most:
                items += self._leases.grant([again.popleft()])
            wanted = most - len(items)
            if wanted > 0 and stream.may_have_more:
                items += self._leases.grant([Item(event, seq, 0) for seq, event in await self._fresh(stream, wanted)])

    async def _fresh(self, stream: Fresh, limit: int) -> list[tuple[int, Event]]:
        taken = stream.take(limit)
        if taken or stream.caught_up:
            return taken
        found, more = await self._read(lambda driver: claim_sql.fresh(driver, stream.urgent, stream.cursor, limit))
        stream.read(found, more=more)
        return found

    async def _claim_parked(self, items: list[Item], lanes: Mapping[str, int]) -> None:
        self._behind_ms += self._clock.set_back_ms()
        if self._behind_ms:
            await self._bring_forward(self._behind_ms)
            self._behind_ms = 0
        now_ms = self._now_ms()
        wanted = {lane: room for lane, room in lanes.items() if room > 0 and self._due.get(lane, now_ms + 1) <= now_ms}
        if not wanted:
            return
        found, earliest = await self._write(lambda driver: claim_sql.claim_due(driver, wanted, now_ms, self._turn))
        for lane, due_ms in earliest.items():
            if due_ms is None:
                self._due.pop(lane, None)
            else:
                self._due[lane] = due_ms
        items += self._leases.grant(found)

    async def _bring_forward(self, by_ms: int) -> None:
        """The wall clock was set back: what is parked waits as long as was meant, not until that hour comes again."""
        after, last = 0, await self._write(sql.newest_parked)
        while after < last:
            after = await self._write(
                partial(sql.bring_forward, by_ms=by_ms, after=after, last=last, now_ms=self._now_ms())
            )
        await self.learn(await self._write(sql.look))

    async def _claim_expired(self, limit: int) -> list[Item]:
        await self._can_settle()
        now_ms = self._now_ms()
        found = await self._write(lambda driver: claim_sql.claim_expired(driver, now_ms, limit))
        return self._leases.grant(found)

    def release(self, items: Sequence[Item]) -> None:
        for item in items:
            self._leases.release(item)
        self._something.set()

    async def wait(self, timeout_s: float) -> None:
        if not self._has_more():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._something.wait()
            except TimeoutError:
                pass

    def _has_more(self) -> bool:
        return any(self._leases.again) or any(stream.may_have_more for stream in self._streams)

    async def wake(self, lanes: Sequence[str]) -> None:
        now_ms = self._now_ms()
        waiting = [lane for lane in lanes if lane in self._due]
        if waiting:
            await self._write(lambda driver: sql.wake(driver, waiting, now_ms))
            self._due.update(dict.fromkeys(waiting, now_ms))
            self._something.set()

    async def due_lanes(self) -> dict[str, int]:
        return dict(self._due)

    # -- settle --------------------------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        answers = self._leases.take([settlement.item for settlement in settlements])
        held = [settlement for settlement, holds in zip(settlements, answers, strict=True) if holds]
        if held:
            # The commit goes on without a caller that has given up: what was delivered is on record.
            await asyncio.shield(asyncio.ensure_future(self._record(held)))
        return answers

    async def _record(self, held: Sequence[Settlement]) -> None:
        now_ms = self._now_ms()
        try:
            done = await self._write(lambda driver: sql.settle(driver, held, now_ms))
        except BaseException as error:
            self._leases.put_back([settlement.item for settlement in held])
            if isinstance(error, StoreUnavailable):
                self._leases.hold_on()
            raise
        finished: dict[int, int] = {}
        for settlement in held:
            for parked in settlement.parked:
                self._due[parked.lane] = min(parked.due_ms, self._due.get(parked.lane, parked.due_ms))
            if settlement.item.seq in done:
                finished[settlement.item.seq] = len(settlement.item.event.body)
        self._count(-len(finished), -sum(finished.values()))
        self._pace.settled(len(finished))

    # -- what is known -------------------------------------------------------------------------------------------------

    def backlog(self) -> Backlog:
        return Backlog(max(0, self._events), max(0, self._bytes))

    async def record(self, event_id: EventId) -> EventRecord | None:
        return await self._read(lambda driver: sql.record(driver, event_id))

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)

    async def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.write(lambda connection: job(raw(connection)))

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.read(lambda connection: job(raw(connection)))


def _fail(appends: Sequence[Append], error: Exception) -> None:
    for append in appends:
        append.error, append.seqs = error, []


def _raise_unexpected(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()  # type: ignore[misc]
