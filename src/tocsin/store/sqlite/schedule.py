"""Schedule on SQLite: deliveries that wait for their lane or for their time, in the table `parked`.

Which lanes have some, and when the first of each is due, is kept in memory.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from tocsin.domain.urgency import Turns
from tocsin.store.records import Item, LanesWoken, Parked
from tocsin.store.sqlite import claim_sql
from tocsin.store.sqlite.claims import FileClaims
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.overview import Overview, look
from tocsin.store.sqlite.settle_sql import LONGEST_DELAY_MS
from tocsin.store.sqlite.signals import SqliteSignals

STEP_ROWS: Final = 5000
"""Of what is parked at a time: all other writes wait for a step."""

_BRING_FORWARD = (
    "UPDATE parked SET due_ms = min(due_ms - ?1, ?2) WHERE id > ?3 AND id <= ?4 AND claimed = 0 AND due_ms > ?5"
)
_WAKE = """UPDATE parked SET due_ms = ?1 WHERE id IN (SELECT id FROM parked INDEXED BY parked_due
    WHERE claimed = 0 AND lane = ?2 AND urgent = ?3 AND due_ms > ?1 AND id <= ?4 ORDER BY due_ms LIMIT ?5)"""


class SqliteSchedule:
    """See `ports.Schedule`."""

    def __init__(
        self,
        database: Database,
        claims: FileClaims,
        signals: SqliteSignals,
        contents: Contents,
        *,
        wall_clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._claims = claims
        self._signals = signals
        self._contents = contents
        self._wall_clock = wall_clock
        self._claiming = asyncio.Lock()
        self._turns = Turns()
        self._due: dict[str, int] = {}

    def refresh(self, overview: Overview) -> None:
        """What is in the file now, by whichever process."""
        self._due = dict(overview.due)
        self._claims.something.set()

    def parked(self, parked: Sequence[Parked]) -> None:
        """These were parked just now. Who waits for something to claim is told where it is due before all else of its
        lane."""
        due = self._due
        for one in parked:
            earliest = due.get(one.lane)
            if earliest is None or one.due_ms < earliest:
                due[one.lane] = one.due_ms
                self._claims.something.set()

    async def due(self) -> Mapping[str, int]:
        self._claims.look_at_clock()
        if self._claims.set_back_ms:
            # Here, too: by times that are late by that much, nothing would be claimed.
            async with self._claiming:
                await self._claims.move_with_the_clock(self.bring_forward)
        return self._due

    async def claim_due(
        self, lanes: Mapping[str, int], size_bytes: int = claim_sql.CLAIM_BYTES, only: Mapping[str, bool] = {}
    ) -> list[Item]:
        return await self._claims.to_the_end(self._claim_due(lanes, size_bytes, only))

    async def expire(self, limit: int) -> list[Item]:
        return await self._claims.to_the_end(self._expire(limit))

    async def wake(self, lanes: Sequence[str]) -> None:
        signal = LanesWoken(tuple(lanes))
        last = await self._database.write(_newest_parked)

        def wake(driver: sqlite3.Connection) -> tuple[list[str], int, bool]:
            # Not by what memory knows to wait: what is being settled is noted there only after its commit.
            now_ms = self._now_ms()
            woken, more = _wake(driver, lanes, last, now_ms)
            if not more:
                self._signals.write(driver, [signal])
            return woken, now_ms, more

        more = True
        while more:
            woken, now_ms, more = await self._database.write(wake)
            self._due.update(dict.fromkeys(woken, now_ms))
            self._claims.something.set()
        self._signals.publish([signal])

    async def bring_forward(self, by_ms: int) -> None:
        """The wall clock was set back: what is parked waits as long as was meant, not until that hour comes again."""
        # What is written before `_newest_parked` is moved here; what is settled after it, when it is settled.
        self._claims.leases.clock_set_back(by_ms)
        after, last = 0, await self._database.write(_newest_parked)
        while after < last:
            after = await self._database.write(
                partial(_bring_forward, by_ms=by_ms, after=after, last=last, now_ms=self._now_ms())
            )
        self.refresh(await self._database.write(look))

    async def _claim_due(self, lanes: Mapping[str, int], size_bytes: int, only: Mapping[str, bool]) -> list[Item]:
        async with self._claiming:
            await self._claims.prepare()
            await self._claims.move_with_the_clock(self.bring_forward)
            now_ms, due = self._now_ms(), self._due
            wanted = {lane: room for lane, room in lanes.items() if room > 0 and due.get(lane, now_ms + 1) <= now_ms}
            if not wanted:
                return []
            turn = self._turns.next()
            found, earliest = await self._database.write(
                lambda driver: claim_sql.claim_due(driver, self._contents, wanted, size_bytes, only, now_ms, turn)
            )
            for lane, due_ms in earliest.items():
                if due_ms is None:
                    self._due.pop(lane, None)
                else:
                    self._due[lane] = due_ms
            return self._claims.leases.grant(found)

    async def _expire(self, limit: int) -> list[Item]:
        async with self._claiming:
            await self._claims.prepare()
            await self._claims.move_with_the_clock(self.bring_forward)
        now_ms = self._now_ms()
        contents = self._contents
        found = await self._database.write(lambda driver: claim_sql.claim_expired(driver, contents, now_ms, limit))
        return self._claims.leases.grant(found)

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _newest_parked(driver: sqlite3.Connection) -> int:
    newest: int
    (newest,) = driver.execute("SELECT coalesce(max(id), 0) FROM parked").fetchone()
    return newest


def _wake(driver: sqlite3.Connection, lanes: Sequence[str], last: int, now_ms: int) -> tuple[list[str], bool]:
    """Make some thousand parked rows of these lanes due, up to `last`, urgent ones first. Returns the lanes that have
    some of them, and whether there may be more."""
    woken: list[str] = []
    left = STEP_ROWS
    for urgent in (1, 0):
        for lane in lanes:
            if number := driver.execute(_WAKE, (now_ms, lane, urgent, last, left)).rowcount:
                woken.append(lane)
            left -= number
            if left == 0:
                return woken, True
    return woken, False


def _bring_forward(driver: sqlite3.Connection, by_ms: int, after: int, last: int, now_ms: int) -> int:
    """Re-judge the due times of some thousand parked rows after `after`; returns where to go on."""
    row = driver.execute(
        "SELECT max(id) FROM (SELECT id FROM parked WHERE id > ? ORDER BY id LIMIT ?)", (after, STEP_ROWS)
    ).fetchone()
    until = last if row[0] is None else min(last, row[0])
    driver.execute(_BRING_FORWARD, (by_ms, now_ms + LONGEST_DELAY_MS, after, until, now_ms))
    return until
