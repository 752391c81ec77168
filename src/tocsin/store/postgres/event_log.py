"""EventLog on PostgreSQL: what became of each event, and what ended in `refused` or `expired`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.audit_chain import Action, Change
from tocsin.store.cursors import number_of
from tocsin.store.envelope import parted
from tocsin.store.ports import EachStep
from tocsin.store.postgres import search_feed, settle_sql
from tocsin.store.postgres.audit import PostgresAudit
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.contents import Contents
from tocsin.store.postgres.horizons import Horizons
from tocsin.store.postgres.reading import state_of
from tocsin.store.postgres.settle_sql import Place
from tocsin.store.postgres.signals import PostgresSignals, Revived
from tocsin.store.postgres.wakes import Wakes
from tocsin.store.records import Attempt, Cursor, DeadLetter, DeadLetterPage, EventRecord, Parked, State
from tocsin.store.states import dead_devices

_STEP: Final = 200
_NO_LANE: Final = "replay"
"""Where a delivery waits that never had a lane: it expired before it was given one. It gets its lane when claimed."""
_NEWEST: Final = 2**62
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_KEPT: Final = (
    "stream, xid, seq, day, id::text, owner::text, message, accepted_ms, expires_ms, round, content_key, body"
)
_IS_DEAD: Final = "dead AND settled_ms IS NOT NULL"
_PAGE: Final = f"SELECT {_KEPT} FROM kept WHERE {_IS_DEAD} AND seq <= $1 ORDER BY seq DESC LIMIT $2"
_NAMED: Final = f"SELECT {_KEPT} FROM kept WHERE {_IS_DEAD} AND id = ANY($1::uuid[]) ORDER BY seq"
_COUNT: Final = f"SELECT count(*) FROM kept WHERE {_IS_DEAD}"
_REPLAY: Final = """UPDATE kept SET dead = false, settled_ms = NULL, round = round + 1, expires_ms = $1
    FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS t(stream, xid, seq)
    WHERE kept.stream = t.stream AND kept.xid = t.xid AND kept.seq = t.seq"""
_DISCARD: Final = """UPDATE kept SET dead = false, settled_ms = $1, body = ''::bytea
    FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS t(stream, xid, seq)
    WHERE kept.stream = t.stream AND kept.xid = t.xid AND kept.seq = t.seq"""
_ATTEMPTS: Final = """SELECT stream, xid, seq, attempts, at_ms FROM settlement
    JOIN unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS t(stream, xid, seq) USING (stream, xid, seq)
    ORDER BY number"""
# Of an event that is in its partition and in `kept`, what is kept is newer.
_RECORD: Final = """SELECT stream, xid, seq, owner::text, message, accepted_ms, expires_ms, round, dead,
        settled_ms, content_key, body
    FROM kept WHERE id = $1
    UNION ALL
    SELECT event.stream, event.xid, event.seq, event.owner::text, event.message, event.accepted_ms, event.expires_ms,
        0, false, NULL, event.content_key, event.body
    FROM event_id JOIN event ON event.day = event_id.day AND event.stream = event_id.stream
        AND event.xid = event_id.xid AND event.id = event_id.id
    WHERE event_id.id = $1 AND NOT EXISTS (SELECT 1 FROM kept WHERE kept.id = $1)"""
_PARKED: Final = """SELECT lane, due_ms, tries, targets FROM parked WHERE stream = $1 AND xid = $2 AND seq = $3
    ORDER BY due_ms, id"""

_decode_targets = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_attempts = msgspec.json.Decoder(list[Attempt]).decode


class _Letter(msgspec.Struct):
    place: Place
    day: int
    event: Event
    round: int
    attempts: list[Attempt]


_Find = Callable[[Connection], Awaitable[Sequence[Any]]]
_Act = Callable[[Connection, list[_Letter]], Awaitable[Revived | None]]


class PostgresEventLog:
    """See `ports.EventLog`."""

    def __init__(
        self,
        database: Database,
        signals: PostgresSignals,
        wakes: Wakes,
        clock: DatabaseClock,
        horizons: Horizons,
        contents: Contents,
        audit: PostgresAudit,
        revived: Callable[[Revived], Awaitable[None]],
    ) -> None:
        self._database = database
        self._signals = signals
        self._wakes = wakes
        self._clock = clock
        self._horizons = horizons
        self._contents = contents
        self._audit = audit
        self._revived = revived

    async def record(self, event_id: EventId) -> EventRecord | None:
        if not _UUID.fullmatch(event_id):
            return None
        return await self._database.write(partial(self._record, event_id=event_id))

    async def dead_letters(self, limit: int, *, start: Cursor | None = None) -> DeadLetterPage:
        first = _NEWEST if start is None else number_of(start)

        async def read(connection: Connection) -> list[_Letter]:
            return await self._letters(connection, await connection.fetch(_PAGE, first, limit + 1))

        found = await self._database.write(read)
        letters = [DeadLetter(letter.event, dead_devices(letter.attempts)) for letter in found[:limit]]
        return DeadLetterPage(letters, Cursor(str(found[limit].place[2])) if len(found) > limit else None)

    async def count_dead_letters(self) -> int:
        number: int = await self._database.read(lambda one: one.fetchval(_COUNT))
        return number

    async def replay(self, ids: Sequence[EventId] | None, lifetime_ms: int, each: EachStep | None = None) -> int:
        act = partial(self._replay, lifetime_ms=lifetime_ms)
        return await self._in_steps(ids, act, Action.DEAD_LETTER_REPLAY, each)

    async def discard(self, ids: Sequence[EventId] | None, each: EachStep | None = None) -> int:
        async def discard(connection: Connection, letters: list[_Letter]) -> None:
            await self._discard(connection, [letter.place for letter in letters])

        return await self._in_steps(ids, discard, Action.DEAD_LETTER_DISCARD, each)

    async def _letters(self, connection: Connection, rows: Sequence[Any]) -> list[_Letter]:
        if not rows:
            return []
        places = [(row["stream"], row["xid"], row["seq"]) for row in rows]
        attempts: dict[Place, list[Attempt]] = defaultdict(list)
        for stream, xid, seq, text, _ in await connection.fetch(_ATTEMPTS, *map(list, zip(*places, strict=True))):
            attempts[stream, xid, seq] += _decode_attempts(text)
        await self._contents.learn([row["content_key"] for row in rows], connection)
        letters = []
        for stream, xid, seq, day, id, owner, message, accepted, expires, round, key_id, body in rows:
            content = self._contents.open(key_id, id, body)
            event = Event(EventId(id), UserId(owner), message, accepted, expires, *parted(content))
            letters.append(_Letter((stream, xid, seq), day, event, round, attempts[stream, xid, seq]))
        return letters

    async def _record(self, connection: Connection, event_id: EventId) -> EventRecord | None:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = await connection.fetchrow(_RECORD, event_id)
        if row is None:
            return None
        stream, xid, seq, owner, message, accepted, expires, round, dead, settled_ms, key_id, body = row
        waiting = await connection.fetch(_PARKED, stream, xid, seq)
        settled = await connection.fetch(_ATTEMPTS, [stream], [xid], [seq])
        state = state_of(bool(settled) or settled_ms is not None, bool(waiting), dead)
        if state in (State.DONE, State.DEAD):
            at_ms = settled_ms if settled_ms is not None else max(one["at_ms"] for one in settled)
            if self._horizons.is_forgotten(state, at_ms):
                return None
        content = b""
        if state is not State.DONE:
            await self._contents.learn([key_id], connection)
            content = self._contents.open(key_id, event_id, body)
        return EventRecord(
            Event(event_id, UserId(owner), message, accepted, expires, *parted(content)),
            state,
            [attempt for one in settled for attempt in _decode_attempts(one["attempts"])],
            [Parked(lane, due, tries, _decode_targets(targets)) for lane, due, tries, targets in waiting],
            round,
        )

    async def _discard(self, connection: Connection, places: Sequence[Place]) -> None:
        if places:
            await connection.execute(_DISCARD, self._clock.now_ms(), *map(list, zip(*places, strict=True)))

    async def _replay(self, connection: Connection, letters: list[_Letter], lifetime_ms: int) -> Revived | None:
        now_ms = self._clock.now_ms()
        rows: list[tuple[Any, ...]] = []
        nobody_left: list[Place] = []
        again: list[_Letter] = []
        for letter in letters:
            by_lane: dict[str, list[str]] = {}
            for attempt in dead_devices(letter.attempts):
                by_lane.setdefault(attempt.lane or _NO_LANE, []).append(attempt.device)
            if not by_lane:
                # Whoever once refused it has it by now: nobody is left to deliver to.
                nobody_left.append(letter.place)
                continue
            event = msgspec.structs.replace(letter.event, expires_ms=now_ms + lifetime_ms)
            parked = [Parked(lane, now_ms, 0, tuple(devices)) for lane, devices in by_lane.items()]
            rows += settle_sql.parked_rows(letter.place, letter.day, event, letter.round + 1, parked, now_ms)
            again.append(letter)
        await self._discard(connection, nobody_left)
        if not again:
            return None
        places = map(list, zip(*[letter.place for letter in again], strict=True))
        await connection.execute(_REPLAY, now_ms + lifetime_ms, *places)
        await settle_sql.park(connection, rows)
        await search_feed.look_again(connection, [letter.place[2] for letter in again])
        logs: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for letter in again:
            events, size = logs[letter.place[0] >> 1]
            logs[letter.place[0] >> 1] = (events + 1, size + len(letter.event.body))
        return Revived(dict(logs))

    async def _in_steps(self, ids: Sequence[EventId] | None, act: _Act, action: Action, each: EachStep | None) -> int:
        """Act on those of `ids` that are dead letters (None: on all of them), some in each transaction."""
        acted = 0
        if ids is not None:
            named = [id for id in dict.fromkeys(ids) if _UUID.fullmatch(id)]
            for begin in range(0, len(named), _STEP):
                some = named[begin : begin + _STEP]
                found = await self._step(partial(_fetch, f"{_NAMED} FOR UPDATE", some), act, action)
                acted += len(found)
                if each is not None and not await each(len(found)):
                    break
            return acted
        start = _NEWEST
        while start >= 0:
            found = await self._step(partial(_fetch, f"{_PAGE} FOR UPDATE", start, _STEP), act, action)
            acted += len(found)
            start = min(letter.place[2] for letter in found) - 1 if found else -1
            if found and each is not None and not await each(len(found)):
                break
        return acted

    async def _step(self, find: _Find, act: _Act, action: Action) -> list[_Letter]:
        note = self._audit.recording()

        async def step(connection: Connection) -> tuple[list[_Letter], Revived | None]:
            await search_feed.hold_off(connection)
            letters = await self._letters(connection, await find(connection))
            revived = await act(connection, letters)
            if revived is not None:
                await self._signals.write(connection, [revived])
            if letters:
                await note(connection, Change(action, details={"events": [one.event.id for one in letters]}))
            return letters, revived

        letters, revived = await self._database.write(step)
        if revived is not None:
            # This process's own queue knows at once, others when they read the signal.
            await self._revived(revived)
            self._wakes.signalled()
        return letters


async def _fetch(statement: str, *values_and_connection: Any) -> Sequence[Any]:
    *values, connection = values_and_connection
    rows: Sequence[Any] = await connection.fetch(statement, *values)
    return rows
