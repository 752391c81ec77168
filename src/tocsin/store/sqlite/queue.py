"""EventQueue on SQLite.

Fresh events are what `event` holds in state 0, in order of acceptance. The file belongs to one server process, so
leases live in memory: a process that dies gives back all that it held.

Other processes may append to the file, replay and discard (the command line does): `refresh` is called with what is in
the file after they have changed it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from tocsin.domain.events import Event
from tocsin.store.appending import Appender
from tocsin.store.clock import TOLERATED_MS
from tocsin.store.leases import leases_of
from tocsin.store.ports import LostItems
from tocsin.store.records import Backlog, Item, Settlement, WholeBacklog
from tocsin.store.settling import Settling
from tocsin.store.sqlite import search_feed, settle_sql
from tocsin.store.sqlite.append_sql import FileInserts
from tocsin.store.sqlite.backlog import FileBacklog, count_waiting
from tocsin.store.sqlite.claims import FileClaims
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.fresh import FreshEvents
from tocsin.store.sqlite.leases import FileLease
from tocsin.store.sqlite.overview import Overview, take_over
from tocsin.store.sqlite.schedule import SqliteSchedule
from tocsin.store.sqlite.search_feed import Recent

# Two looks into an index each: the events that nobody has tried, and those that wait.
_OLDEST: Final = """SELECT accepted_ms FROM event WHERE seq = (SELECT min(oldest) FROM (
        SELECT min(seq) AS oldest FROM event INDEXED BY event_fresh WHERE state = 0 AND urgent = 0
        UNION ALL SELECT min(seq) FROM event INDEXED BY event_fresh WHERE state = 0 AND urgent = 1
        UNION ALL SELECT min(seq) FROM parked
    ))"""


class SqliteQueue:
    """See `ports.EventQueue`. Not safe to share between event loops."""

    def __init__(
        self,
        database: Database,
        claims: FileClaims,
        schedule: SqliteSchedule,
        backlog: FileBacklog,
        contents: Contents,
        *,
        recent: Recent | None,
        wall_clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._claims = claims
        self._schedule = schedule
        self._backlog = backlog
        self._recent = recent
        self._wall_clock = wall_clock
        self._fresh = FreshEvents(database, claims.leases, contents, backlog.appended_elsewhere)
        inserts = FileInserts(database, self._fresh, contents)
        self._appender = Appender(inserts, backlog, claims.something.set)
        self._settling = Settling(claims.leases, self._now_ms, self._record)
        self._claiming = asyncio.Lock()
        self._overview: Overview | None = None

    async def start(self) -> None:
        """Take over the file: count the backlog, and give back what a dead process had claimed."""
        taken = await self._database.write(take_over)
        self._overview = taken.overview
        self._backlog.start(taken.events, taken.size_bytes)
        self._fresh.start(taken.cursor, taken.overview.newest)
        self._schedule.refresh(taken.overview)
        # An event from the future: the clock was set back while no server ran.
        if (ahead_ms := taken.newest_accepted_ms - self._now_ms()) > TOLERATED_MS:
            await self._schedule.bring_forward(ahead_ms)
        self._claims.something.set()

    async def refresh(self, overview: Overview) -> None:
        """Make what is in memory agree with the file. `overview` comes fresh from the writer."""
        if self._overview is None:
            return
        before, self._overview = self._overview, overview
        self._backlog.count(
            overview.revived_events - before.revived_events, overview.revived_bytes - before.revived_bytes
        )
        self._backlog.count(before.erased_events - overview.erased_events, before.erased_bytes - overview.erased_bytes)
        self._fresh.newest_is(overview.newest)
        self._schedule.refresh(overview)
        await self._backlog.count_appended_elsewhere()

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
                await self._backlog.count_appended_elsewhere()
                await self._fresh.claim(items, limit)
            except BaseException:
                self._claims.release(items)
                raise
            if self._fresh.may_have_more:
                self._claims.something.set()
        return items

    async def extend(self, items: Sequence[Item]) -> None:
        self._claims.leases.extend(items)

    async def release(self, items: Sequence[Item]) -> None:
        self._claims.release(items)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return await self._settling.settle(settlements)

    async def _record(self, settlements: Sequence[Settlement], now_ms: int) -> None:
        leases = leases_of([settlement.item for settlement in settlements], FileLease)
        recent = self._recent

        def settle(driver: sqlite3.Connection) -> tuple[set[int], Callable[[], None]]:
            done = settle_sql.settle(driver, settlements, leases, now_ms)
            if recent is None:
                return done, search_feed.nothing
            id = search_feed.note(driver, {lease.seq for lease in leases}, now_ms)
            return done, recent.settled(id, settlements, leases)

        done, keep = await self._database.write(settle)
        keep()
        finished: dict[int, int] = {}
        for settlement, lease in zip(settlements, leases, strict=True):
            if settlement.parked:
                self._schedule.parked(settlement.parked)
            if lease.seq in done:
                finished[lease.seq] = len(settlement.item.event.body)
        self._backlog.finished(finished.values())

    async def wait(self, timeout_s: float) -> None:
        if not self._fresh.may_have_more:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._claims.something.wait()
            except TimeoutError:
                pass

    async def backlog(self) -> Backlog:
        if self._backlog.is_followed:
            return self._backlog.now()
        return Backlog(*await self._database.read(count_waiting))

    def held(self) -> Backlog:
        return self._backlog.now() if self._backlog.is_followed else Backlog(0, 0)

    async def whole_backlog(self) -> WholeBacklog:
        backlog = await self.backlog()
        return WholeBacklog(backlog.events, backlog.size_bytes, await self.oldest_ms())

    async def oldest_ms(self) -> int | None:
        found = await self._database.read(lambda driver: driver.execute(_OLDEST).fetchone())
        return None if found is None else int(found[0])

    def held_up_s(self) -> float:
        """Never: one writes at a time."""
        return 0.0

    def may_send(self) -> bool:
        """Always: this process holds the lock on the file for as long as it lives."""
        return True

    def when_lost(self, lost: LostItems) -> None:
        self._claims.leases.when_lost(lost)

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)
