"""EventLog on SQLite: what became of each event, and what ended in `refused` or `expired`."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.audit_chain import Action, Change
from tocsin.store.cursors import NEWEST, number_of
from tocsin.store.envelope import enclosed, parted
from tocsin.store.ports import EachStep
from tocsin.store.records import (
    Attempt,
    Cursor,
    DeadLetter,
    DeadLetterPage,
    EventRecord,
    Item,
    Parked,
    State,
)
from tocsin.store.sqlite import rows, search_feed
from tocsin.store.sqlite.audit import SqliteAudit
from tocsin.store.sqlite.connection import one_instant
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.leases import FileLease
from tocsin.store.sqlite.overview import Overview, look
from tocsin.store.sqlite.settle_sql import park
from tocsin.store.states import AFTER_DISCARD, after_replay, dead_devices

_STEP: Final = 200
_NO_LANE: Final = "replay"
"""Where a delivery waits that never had a lane: it expired before it was given one. It gets its lane when claimed."""

_BODY: Final = "CAST(body AS BLOB)"
_COLUMNS: Final = f"seq, id, owner, message, accepted_ms, expires_ms, {_BODY}, attempts, round, content_key_id"
_DEAD: Final = int(State.DEAD)
_PAGE: Final = f"SELECT {_COLUMNS} FROM event WHERE state = {_DEAD} AND seq <= ? ORDER BY seq DESC LIMIT ?"
_ONE: Final = f"SELECT {_COLUMNS} FROM event WHERE state = {_DEAD} AND id = ?"
_REPLAY: Final = (
    f"UPDATE event SET state = {int(after_replay(devices=True))}, dead = 0, waiting = ?, expires_ms = ?,"
    " settled_ms = NULL, round = round + 1, body = ?, content_key_id = ? WHERE seq = ?"
)
_DISCARD: Final = (
    f"WITH discarded(seq) AS (VALUES {{rows}}) UPDATE event SET state = {int(AFTER_DISCARD)}, dead = 0, body = NULL,"
    " content_key_id = NULL, settled_ms = ? WHERE seq IN (SELECT seq FROM discarded)"
)
_TALLY: Final = (
    "INSERT INTO housekeeping(name, number) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET number = number + ?2"
)
_RECORD: Final = (
    f"SELECT seq, owner, message, accepted_ms, expires_ms, {_BODY}, state, attempts, round, content_key_id"
    " FROM event WHERE id = ?"
)
_PARKED: Final = "SELECT lane, due_ms, tries, targets FROM parked WHERE seq = ? ORDER BY due_ms"
_COUNT: Final = f"SELECT count(*) FROM event INDEXED BY event_dead WHERE state = {_DEAD}"

_decode_targets = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_attempts = msgspec.json.Decoder(list[Attempt]).decode


class _Row(NamedTuple):
    """A dead letter as it is stored."""

    seq: int
    event: Event
    """Its content as it is stored: encrypted."""
    attempts: list[Attempt]
    round: int
    content_key: int | None


_Find = Callable[[sqlite3.Connection], list[_Row]]
_Act = Callable[[sqlite3.Connection, list[_Row]], None]


class SqliteEventLog:
    """See `ports.EventLog`."""

    def __init__(
        self,
        database: Database,
        refresh: Callable[[Overview], Awaitable[None]],
        audit: SqliteAudit,
        contents: Contents,
        *,
        feeds_search: bool,
        wall_clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._refresh = refresh
        self._audit = audit
        self._contents = contents
        self._feeds_search = feeds_search
        self._wall_clock = wall_clock

    async def record(self, event_id: EventId) -> EventRecord | None:
        def read(driver: sqlite3.Connection) -> EventRecord | None:
            with one_instant(driver):
                return _record(driver, self._contents, event_id)

        return await self._database.read(read)

    async def dead_letters(self, limit: int, *, start: Cursor | None = None) -> DeadLetterPage:
        first = NEWEST if start is None else number_of(start)

        def read(driver: sqlite3.Connection) -> DeadLetterPage:
            with one_instant(driver):
                found = _page(driver, first, limit + 1)
                letters = [DeadLetter(self._opened(driver, row), dead_devices(row.attempts)) for row in found[:limit]]
            return DeadLetterPage(letters, Cursor(str(found[limit].seq)) if len(found) > limit else None)

        return await self._database.read(read)

    async def count_dead_letters(self) -> int:
        number: int
        (number,) = await self._database.read(lambda driver: driver.execute(_COUNT).fetchone())
        return number

    async def replay(self, ids: Sequence[EventId] | None, lifetime_ms: int, each: EachStep | None = None) -> int:
        def replay(driver: sqlite3.Connection, found: list[_Row]) -> None:
            self._replay(driver, found, lifetime_ms)

        return await self._in_steps(ids, replay, Action.DEAD_LETTER_REPLAY, each)

    async def discard(self, ids: Sequence[EventId] | None, each: EachStep | None = None) -> int:
        def discard(driver: sqlite3.Connection, found: list[_Row]) -> None:
            self._discard(driver, [row.seq for row in found])

        return await self._in_steps(ids, discard, Action.DEAD_LETTER_DISCARD, each)

    def _discard(self, driver: sqlite3.Connection, seqs: Sequence[int]) -> None:
        rows.execute(driver, _DISCARD, [(seq,) for seq in seqs], int(self._wall_clock() * 1000))

    def _replay(self, driver: sqlite3.Connection, found: list[_Row], lifetime_ms: int) -> None:
        now_ms = int(self._wall_clock() * 1000)
        replayed = size = 0
        key = self._contents.current(driver)
        for row in found:
            seq, attempts, round = row.seq, row.attempts, row.round
            by_lane: dict[str, list[str]] = {}
            for attempt in dead_devices(attempts):
                by_lane.setdefault(attempt.lane or _NO_LANE, []).append(attempt.device)
            if not by_lane:
                # Whoever once refused it has it by now: nobody is left to deliver to.
                self._discard(driver, [seq])
                continue
            again = replace(self._opened(driver, row), expires_ms=now_ms + lifetime_ms)
            lease = FileLease(seq)
            parked = [Parked(lane, now_ms, 0, tuple(devices)) for lane, devices in by_lane.items()]
            park(driver, Item(again, lease, round=round + 1), lease, parked, now_ms)
            # By the key of this hour: the one it had may be about to be dropped, with what was seen to wait.
            sealed = key.seal_one(again.id, enclosed(again), self._contents.random)
            driver.execute(_REPLAY, (len(parked), again.expires_ms, sealed, key.id, seq))
            replayed, size = replayed + 1, size + len(again.body)
        driver.execute(_TALLY, ("revived_events", replayed))
        driver.execute(_TALLY, ("revived_bytes", size))

    def _opened(self, driver: sqlite3.Connection, row: _Row) -> Event:
        return _opened(driver, self._contents, row.content_key, row.event)

    async def _in_steps(self, ids: Sequence[EventId] | None, act: _Act, action: Action, each: EachStep | None) -> int:
        """Act on those of `ids` that are dead letters (None: on all of them), some in each transaction."""
        acted = 0
        if ids is not None:
            for begin in range(0, len(ids), _STEP):
                found = await self._step(partial(_named, ids=ids[begin : begin + _STEP]), act, action)
                acted += len(found)
                if each is not None and not await each(len(found)):
                    break
            return acted
        start = NEWEST
        while start >= 0:
            found = await self._step(partial(_page, start=start, limit=_STEP), act, action)
            acted += len(found)
            start = found[-1] - 1 if found else -1
            if found and each is not None and not await each(len(found)):
                break
        return acted

    async def _step(self, find: _Find, act: _Act, action: Action) -> list[int]:
        note = self._audit.recording()

        def step(driver: sqlite3.Connection) -> tuple[list[int], Overview]:
            found = find(driver)
            act(driver, found)
            if found and note is not None:
                note(driver, Change(action, details={"events": [row.event.id for row in found]}))
            seqs = [row.seq for row in found]
            if self._feeds_search:
                search_feed.note(driver, seqs, int(self._wall_clock() * 1000))
            return seqs, look(driver)

        seqs, overview = await self._database.write(step)
        # The server's own queue knows at once, another process's when it notices the change.
        await self._refresh(overview)
        return seqs


def _page(driver: sqlite3.Connection, start: int, limit: int) -> list[_Row]:
    return [_row(*row) for row in driver.execute(_PAGE, (start, limit)).fetchall()]


def _named(driver: sqlite3.Connection, ids: Sequence[EventId]) -> list[_Row]:
    return [_row(*row) for id in dict.fromkeys(ids) for row in driver.execute(_ONE, (id,)).fetchall()]


def _row(
    seq: int,
    id: str,
    owner: str,
    message: str,
    accepted: int,
    expires: int,
    body: bytes | None,
    attempts: str | None,
    round: int,
    content_key: int | None,
) -> _Row:
    event = Event(EventId(id), UserId(owner), message, accepted, expires, body or b"")
    return _Row(seq, event, _attempts(attempts), round, content_key)


def _opened(driver: sqlite3.Connection, contents: Contents, content_key: int | None, event: Event) -> Event:
    """The event with its content decrypted, where it is still there."""
    if not event.body:
        return event
    body, trace = parted(contents.open(driver, content_key, event.id, event.body))
    return replace(event, body=body, trace=trace)


def _record(driver: sqlite3.Connection, contents: Contents, event_id: EventId) -> EventRecord | None:
    row = driver.execute(_RECORD, (event_id,)).fetchone()
    if row is None:
        return None
    seq, owner, message, accepted, expires, body, state, attempts, round, content_key = row
    waiting = driver.execute(_PARKED, (seq,)).fetchall()
    event = Event(event_id, UserId(owner), message, accepted, expires, body or b"")
    return EventRecord(
        _opened(driver, contents, content_key, event),
        State(state),
        _attempts(attempts),
        [Parked(lane, due, tries, _decode_targets(targets)) for lane, due, tries, targets in waiting],
        round,
    )


def _attempts(text: str | None) -> list[Attempt]:
    return _decode_attempts(f"[{text or ''}]")
