"""EventQueue on SQLite.

Fresh events are what `event` holds in state 0, in order of acceptance; what waits for a lane or a time is in `parked`.
The file belongs to one server process, so leases on fresh events live in memory: a process that dies gives back all
that it held. What ingest has just committed is handed on without reading it back.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from tocsin.domain.events import URGENT, Event, EventId, UserId
from tocsin.store.ports import (
    DEAD_LETTER,
    Attempt,
    Backlog,
    BacklogFull,
    EventIdConflict,
    EventRecord,
    Item,
    NewEvent,
    Parked,
    Settlement,
    State,
)
from tocsin.store.sqlite import rows
from tocsin.store.sqlite.database import Database, raw

_TAIL_EVENTS: Final = 20_000
_RATE_WINDOW_S: Final = 10.0
_RETRY_AFTER_S: Final = (1, 300)

_INSERT = (
    "INSERT INTO event(id, owner, message, urgent, accepted_ms, expires_ms, size, digest, body) VALUES {rows}"
)
_KNOWN = (
    "WITH wanted(id) AS (VALUES {rows}) SELECT json_group_array(json_array(event.id, coalesce(digest, ''))) "
    "FROM wanted CROSS JOIN event ON event.id = wanted.id"
)
_FRESH = """SELECT json_group_array(json_array(seq, id, owner, message, accepted_ms, expires_ms, body)) FROM (
    SELECT seq, id, owner, message, accepted_ms, expires_ms, body FROM event
    WHERE state = 0 AND urgent = ? AND seq > ? ORDER BY seq LIMIT ?)"""
_DUE = """SELECT json_group_array(json_array(
        seq, event.id, owner, message, accepted_ms, event.expires_ms, body, parked_id, tries, targets, lane)) FROM (
    SELECT id AS parked_id, seq, tries, targets, lane FROM parked INDEXED BY parked_due
    WHERE claimed = 0 AND lane = ? AND urgent = ? AND due_ms <= ? ORDER BY due_ms LIMIT ?
    ) JOIN event USING (seq)"""
_EXPIRED = """SELECT json_group_array(json_array(
        seq, event.id, owner, message, accepted_ms, event.expires_ms, body, parked_id, tries, targets, lane)) FROM (
    SELECT id AS parked_id, seq, tries, targets, lane FROM parked WHERE claimed = 0 AND expires_ms <= ? LIMIT ?
    ) JOIN event USING (seq)"""
_EARLIEST = "SELECT min(due_ms) FROM parked INDEXED BY parked_due WHERE claimed = 0 AND lane = ? AND urgent = ?"
_SETTLE = """WITH settled(seq, waiting, dead, attempts) AS (VALUES {rows})
    UPDATE event SET
        waiting = event.waiting + settled.waiting,
        dead = max(event.dead, settled.dead),
        state = iif(event.waiting + settled.waiting > 0, 1, iif(max(event.dead, settled.dead), 3, 2)),
        attempts = iif(event.attempts IS NULL, settled.attempts,
                       iif(settled.attempts IS NULL, event.attempts, event.attempts || ',' || settled.attempts)),
        body = iif(event.waiting + settled.waiting > 0 OR max(event.dead, settled.dead), event.body, NULL)
    FROM settled WHERE event.seq = settled.seq"""
_PARK = "INSERT INTO parked(seq, lane, urgent, due_ms, expires_ms, tries, targets) VALUES {rows}"
_UNPARK = "DELETE FROM parked WHERE id IN (VALUES {rows})"
_WAITING = (
    "WITH wanted(seq) AS (VALUES {rows}) SELECT json_group_array(event.seq) "
    "FROM wanted CROSS JOIN event ON event.seq = wanted.seq WHERE event.waiting > 0"
)
_MARK_CLAIMED = "UPDATE parked SET claimed = 1 WHERE id IN (VALUES {rows})"

_FreshRow = tuple[int, str, str, str, int, int, str]
_DueRow = tuple[int, str, str, str, int, int, str, int, int, str, str]
_decode_fresh = msgspec.json.Decoder(list[_FreshRow]).decode
_decode_due = msgspec.json.Decoder(list[_DueRow]).decode
_decode_known = msgspec.json.Decoder(list[tuple[str, str]]).decode
_decode_seqs = msgspec.json.Decoder(list[int]).decode
_decode_targets = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_attempts = msgspec.json.Decoder(list[Attempt]).decode
_encode = msgspec.json.Encoder().encode


class _Append:
    """One producer's batch on its way into the next commit."""

    __slots__ = ("error", "events", "seqs")

    def __init__(self, events: Sequence[NewEvent]) -> None:
        self.events = events
        self.seqs: list[tuple[int, Event]] = []
        self.error: Exception | None = None


class _Fresh:
    """The fresh events of one urgency: a cursor over the table, and the tail of it that is still in memory."""

    def __init__(self, urgent: int) -> None:
        self.urgent = urgent
        self.cursor = 0
        self.newest = 0
        self.tail: deque[tuple[int, Event]] = deque()
        self.caught_up = False

    def committed(self, seq: int, event: Event) -> None:
        self.newest = max(self.newest, seq)
        if self.caught_up and len(self.tail) < _TAIL_EVENTS:
            if seq > self.cursor:
                self.tail.append((seq, event))
        else:
            # The tail stays a gapless continuation of the cursor; what came later is read from the table.
            self.caught_up = False

    @property
    def may_have_more(self) -> bool:
        return bool(self.tail) or not self.caught_up

    def take(self, limit: int) -> list[tuple[int, Event]]:
        taken = [self.tail.popleft() for _ in range(min(limit, len(self.tail)))]
        if taken:
            self.cursor = taken[-1][0]
        return taken

    def read(self, found: list[tuple[int, Event]], limit: int) -> None:
        """Account for what the table gave after the cursor."""
        if found:
            self.cursor = max(self.cursor, found[-1][0])
        self.newest = max(self.newest, self.cursor)
        if len(found) < limit and self.newest == self.cursor:
            self.caught_up = True


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
        self._lease_s = lease_s
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._appending: deque[tuple[_Append, asyncio.Future[None]]] = deque()
        self._flushing = False
        self._urgent = _Fresh(1)
        self._bulk = _Fresh(0)
        self._leases: dict[int, tuple[Item, float]] = {}
        self._next_lease = 1
        self._again: deque[Item] = deque()
        self._due: dict[str, int] = {}
        self._events = 0
        self._bytes = 0
        self._settled: deque[tuple[float, int]] = deque()
        self._something = asyncio.Event()

    async def start(self) -> None:
        """Take over the file: count the backlog, and give back what a dead process had claimed."""

        def take_over(connection: Connection) -> tuple[int, int, int, int, int, dict[str, int]]:
            driver = raw(connection)
            driver.execute("UPDATE parked SET claimed = 0 WHERE claimed = 1")
            events, size = driver.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM event INDEXED BY event_fresh WHERE state = 0"
            ).fetchone()
            more, more_size = driver.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM event WHERE seq IN (SELECT DISTINCT seq FROM parked)"
            ).fetchone()
            (oldest,) = driver.execute(
                "SELECT coalesce(min(s), 0) FROM (SELECT min(seq) s FROM event WHERE state = 0 AND urgent = 0 UNION ALL"
                " SELECT min(seq) FROM event WHERE state = 0 AND urgent = 1)"
            ).fetchone()
            (newest,) = driver.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()
            due = dict(driver.execute("SELECT lane, min(due_ms) FROM parked GROUP BY lane").fetchall())
            return events + more, size + more_size, events, oldest, newest, due

        self._events, self._bytes, fresh, oldest, newest, self._due = await self._database.write(take_over)
        for stream in (self._urgent, self._bulk):
            stream.cursor = oldest - 1 if fresh else newest
            stream.newest = newest if fresh else stream.cursor
            stream.caught_up = not fresh
        self._something.set()

    # -- append --------------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[NewEvent]) -> None:
        size = sum(len(new.event.body) for new in events)
        if self._events + len(events) > self._max_events or self._bytes + size > self._max_bytes:
            raise BacklogFull(self._drain_estimate_s())
        self._count(len(events), size)
        append = _Append(events)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._appending.append((append, done))
        if not self._flushing:
            self._flushing = True
            flush = asyncio.create_task(self._flush())
            flush.add_done_callback(_raise_unexpected)
        # The commit goes on without a caller that has given up: what is durable is delivered.
        await asyncio.shield(done)

    async def _flush(self) -> None:
        """Write what has gathered, again and again until nothing has: one commit at a time, whoever is in it."""
        try:
            while self._appending:
                taken = list(islice(self._appending, None))
                self._appending.clear()
                await self._commit(taken)
        finally:
            self._flushing = False

    async def _commit(self, batch: list[tuple[_Append, asyncio.Future[None]]]) -> None:
        appends = [append for append, _ in batch]
        try:
            await self._database.write(lambda connection: _insert(raw(connection), appends))
        except Exception as error:
            for append, _ in batch:
                append.error, append.seqs = error, []
        for append, done in batch:
            self._hand_on(append.seqs)
            if len(append.seqs) < len(append.events):
                appended = sum(len(event.body) for _, event in append.seqs)
                offered = sum(len(new.event.body) for new in append.events)
                self._count(len(append.seqs) - len(append.events), appended - offered)
            if append.error is None:
                done.set_result(None)
            else:
                done.set_exception(append.error)
        self._something.set()

    def _hand_on(self, committed: Iterable[tuple[int, Event]]) -> None:
        for seq, event in committed:
            (self._urgent if event.message in URGENT else self._bulk).committed(seq, event)

    def _count(self, events: int, size: int) -> None:
        self._events += events
        self._bytes += size

    def _drain_estimate_s(self) -> int:
        """An honest Retry-After: how long the last seconds' pace needs to make a tenth of the bound free again."""
        now = self._monotonic()
        recent = sum(count for at, count in self._settled if at > now - _RATE_WINDOW_S)
        least, most = _RETRY_AFTER_S
        if not recent:
            return most
        return max(least, min(most, round(self._max_events / 10 / (recent / _RATE_WINDOW_S))))

    # -- claim ---------------------------------------------------------------------------------------------------------

    async def claim(self, limit: int, lanes: Mapping[str, int]) -> list[Item]:
        self._something.clear()
        self._end_leases()
        items: list[Item] = []
        while self._again and len(items) < limit:
            items.append(self._lease(self._again.popleft()))
        # Urgent first, but a quarter is kept for the others as long as there are any.
        share = limit - limit // 4 if self._bulk.may_have_more else limit
        for stream, most in ((self._urgent, share), (self._bulk, limit)):
            wanted = most - len(items)
            if wanted > 0 and stream.may_have_more:
                for seq, event in await self._fresh(stream, wanted):
                    items.append(self._lease(Item(event, seq, 0)))
        now_ms = int(self._wall_clock() * 1000)
        wanted_lanes = {
            lane: room for lane, room in lanes.items() if room > 0 and self._due.get(lane, now_ms + 1) <= now_ms
        }
        if wanted_lanes:
            items += await self._claim_parked(wanted_lanes, now_ms)
        if self._again or self._urgent.may_have_more or self._bulk.may_have_more:
            self._something.set()
        return items

    async def _fresh(self, stream: _Fresh, limit: int) -> list[tuple[int, Event]]:
        taken = stream.take(limit)
        if taken or stream.caught_up:
            return taken
        cursor = stream.cursor

        def read(connection: Connection) -> str:
            text: str
            (text,) = raw(connection).execute(_FRESH, (stream.urgent, cursor, limit)).fetchone()
            return text

        found = [
            (seq, Event(EventId(id), UserId(owner), message, accepted, expires, body.encode()))
            for seq, id, owner, message, accepted, expires, body in _decode_fresh(await self._database.read(read))
        ]
        stream.read(found, limit)
        return found

    async def _claim_parked(self, lanes: dict[str, int], now_ms: int) -> list[Item]:
        def claim(connection: Connection) -> tuple[list[_DueRow], dict[str, int | None]]:
            driver = raw(connection)
            found: list[_DueRow] = []
            for lane, room in lanes.items():
                for urgent in (1, 0):
                    if room > 0:
                        (text,) = driver.execute(_DUE, (lane, urgent, now_ms, room)).fetchone()
                        due = _decode_due(text)
                        found += due
                        room -= len(due)
            rows.execute(driver, _MARK_CLAIMED, [(row[7],) for row in found])
            return found, {lane: _earliest(driver, lane) for lane in lanes}

        found, earliest = await self._database.write(claim)
        for lane, due_ms in earliest.items():
            if due_ms is None:
                self._due.pop(lane, None)
            else:
                self._due[lane] = due_ms
        return [self._lease(_parked_item(row)) for row in found]

    async def claim_expired(self, limit: int) -> list[Item]:
        now_ms = int(self._wall_clock() * 1000)

        def claim(connection: Connection) -> list[_DueRow]:
            driver = raw(connection)
            (text,) = driver.execute(_EXPIRED, (now_ms, limit)).fetchone()
            found = _decode_due(text)
            rows.execute(driver, _MARK_CLAIMED, [(row[7],) for row in found])
            return found

        return [self._lease(_parked_item(row)) for row in await self._database.write(claim)]

    def _lease(self, item: Item) -> Item:
        item.lease = self._next_lease
        self._next_lease += 1
        self._leases[item.lease] = (item, self._monotonic() + self._lease_s)
        return item

    def _end_leases(self) -> None:
        """Leases are all of one length, so the oldest ends first. A late settlement finds its lease gone."""
        now = self._monotonic()
        while self._leases:
            lease, (item, ends) = next(iter(self._leases.items()))
            if ends > now:
                return
            del self._leases[lease]
            self._again.append(_copy(item))

    def release(self, items: Sequence[Item]) -> None:
        for item in items:
            if self._leases.pop(item.lease, None) is not None:
                self._again.append(_copy(item))
        self._something.set()

    async def wait(self, timeout_s: float) -> None:
        if not self._again and not self._urgent.may_have_more and not self._bulk.may_have_more:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._something.wait()
            except TimeoutError:
                pass

    def look_again(self) -> None:
        """Another process has changed the file: there may be events that this one did not commit."""
        self._urgent.caught_up = self._bulk.caught_up = False
        self._something.set()

    async def due_lanes(self) -> dict[str, int]:
        return dict(self._due)

    # -- settle --------------------------------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        held: list[Settlement] = []
        answers: list[bool] = []
        taken: dict[int, tuple[Item, float]] = {}
        for settlement in settlements:
            lease = self._leases.pop(settlement.item.lease, None)
            answers.append(lease is not None)
            if lease is not None:
                taken[settlement.item.lease] = lease
                held.append(settlement)
        if not held:
            return answers
        try:
            done = await self._database.write(lambda connection: _settle(raw(connection), held))
        except BaseException:
            self._leases = taken | self._leases
            raise
        for settlement in held:
            for parked in settlement.parked:
                self._due[parked.lane] = min(parked.due_ms, self._due.get(parked.lane, parked.due_ms))
        finished = [settlement.item.event for settlement in held if settlement.item.seq in done]
        self._count(-len(finished), -sum(len(event.body) for event in finished))
        now = self._monotonic()
        self._settled.append((now, len(finished)))
        while self._settled[0][0] < now - _RATE_WINDOW_S:
            self._settled.popleft()
        return answers

    # -- what is known -------------------------------------------------------------------------------------------------

    def backlog(self) -> Backlog:
        return Backlog(self._events, self._bytes)

    async def record(self, event_id: EventId) -> EventRecord | None:
        def read(connection: Connection) -> EventRecord | None:
            driver = raw(connection)
            row = driver.execute(
                "SELECT seq, owner, message, accepted_ms, expires_ms, body, state, attempts FROM event WHERE id = ?",
                (event_id,),
            ).fetchone()
            if row is None:
                return None
            seq, owner, message, accepted, expires, body, state, attempts = row
            waiting = driver.execute(
                "SELECT lane, due_ms, tries, targets FROM parked WHERE seq = ? ORDER BY due_ms", (seq,)
            ).fetchall()
            event = Event(event_id, UserId(owner), message, accepted, expires, (body or "").encode())
            return EventRecord(
                event,
                State(state),
                _decode_attempts(f"[{attempts or ''}]"),
                [Parked(lane, due, tries, _decode_targets(targets)) for lane, due, tries, targets in waiting],
            )

        return await self._database.read(read)


def _copy(item: Item) -> Item:
    """The same work under a lease to come: whoever holds the old item cannot settle the new one."""
    return Item(item.event, item.seq, 0, item.parked_id, item.lane, item.targets, item.tries)


def _parked_item(row: _DueRow) -> Item:
    seq, id, owner, message, accepted, expires, body, parked_id, tries, targets, lane = row
    event = Event(EventId(id), UserId(owner), message, accepted, expires, body.encode())
    return Item(event, seq, 0, parked_id, lane, _decode_targets(targets), tries)


def _raise_unexpected(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()  # type: ignore[misc]


def _earliest(driver: sqlite3.Connection, lane: str) -> int | None:
    found = [driver.execute(_EARLIEST, (lane, urgent)).fetchone()[0] for urgent in (1, 0)]
    return min((due for due in found if due is not None), default=None)


def _insert(driver: sqlite3.Connection, appends: Sequence[_Append]) -> None:
    """Insert the batches of several producers; one whose `event_id` is in conflict is left out whole."""
    given = [new.event.id for append in appends for new in append.events if new.digest is not None]
    known: dict[str, str] = {}
    if given:
        for text in rows.fetch_json(driver, _KNOWN, given):
            known.update(_decode_known(text))
    values: list[tuple[Any, ...]] = []
    inserted: list[tuple[_Append, list[Event]]] = []
    for append in appends:
        try:
            events = _unknown(append.events, known)
        except EventIdConflict as conflict:
            append.error = conflict
            continue
        inserted.append((append, [new.event for new in events]))
        for new in events:
            event = new.event
            values.append(
                (
                    event.id,
                    event.owner,
                    event.message,
                    1 if event.message in URGENT else 0,
                    event.accepted_ms,
                    event.expires_ms,
                    len(event.body),
                    new.digest,
                    event.body.decode(),
                )
            )
    if not values:
        return
    rows.execute(driver, _INSERT, values)
    (last,) = driver.execute("SELECT last_insert_rowid()").fetchone()
    seq = last - len(values) + 1
    for append, fresh in inserted:
        append.seqs = list(zip(range(seq, seq + len(fresh)), fresh, strict=True))
        seq += len(fresh)


def _unknown(events: Sequence[NewEvent], known: dict[str, str]) -> Sequence[NewEvent]:
    """Those that are not on record yet; `known` (id to digest) learns them once the whole batch is good."""
    learned: dict[str, str] = {}
    fresh = []
    for index, new in enumerate(events):
        if new.digest is None:
            fresh.append(new)
            continue
        digest = learned.get(new.event.id) or known.get(new.event.id)
        if digest is None:
            learned[new.event.id] = new.digest
            fresh.append(new)
        elif digest != new.digest:
            raise EventIdConflict(index)
    known.update(learned)
    return fresh


def _settle(driver: sqlite3.Connection, settlements: Sequence[Settlement]) -> set[int]:
    """Record and park; returns the events that have no device left to wait for."""
    by_seq: dict[int, list[Any]] = {}
    park: list[tuple[Any, ...]] = []
    unpark: list[tuple[int]] = []
    uncertain: set[int] = set()
    for settlement in settlements:
        item = settlement.item
        waiting = len(settlement.parked)
        if item.parked_id is not None:
            unpark.append((item.parked_id,))
            waiting -= 1
            uncertain.add(item.seq)
        dead = any(attempt.result in DEAD_LETTER for attempt in settlement.attempts)
        attempts = _encode(settlement.attempts)[1:-1].decode() or None
        row = by_seq.get(item.seq)
        if row is None:
            by_seq[item.seq] = [item.seq, waiting, int(dead), attempts]
        else:
            row[1] += waiting
            row[2] = max(row[2], int(dead))
            row[3] = ",".join(part for part in (row[3], attempts) if part) or None
        event = item.event
        for parked in settlement.parked:
            park.append(
                (
                    item.seq,
                    parked.lane,
                    int(event.urgent),
                    parked.due_ms,
                    event.expires_ms,
                    parked.tries,
                    _encode(parked.targets).decode(),
                )
            )
    rows.execute(driver, _UNPARK, unpark)
    rows.execute(driver, _SETTLE, list(by_seq.values()))
    rows.execute(driver, _PARK, park)
    uncertain |= {seq for seq, row in by_seq.items() if row[1] > 0}
    still: set[int] = set()
    for text in rows.fetch_json(driver, _WAITING, list(uncertain)):
        still.update(_decode_seqs(text))
    return set(by_seq) - still
