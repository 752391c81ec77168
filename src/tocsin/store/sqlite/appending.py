"""Appends what producers hand over: what gathers while one commit runs goes into the next (group commit).

What was appended is given on to the claims without being read back (`fresh.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import islice

from tocsin.domain.events import Event
from tocsin.store.digests import Digest
from tocsin.store.ports import WriteFailure
from tocsin.store.sqlite import append_sql
from tocsin.store.sqlite.append_sql import Append
from tocsin.store.sqlite.backlog import BacklogBound
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.fresh import FreshEvents


class Appender:
    def __init__(
        self,
        database: Database,
        backlog: BacklogBound,
        fresh: FreshEvents,
        digest: Digest,
        something: asyncio.Event,
    ) -> None:
        self._database = database
        self._backlog = backlog
        self._fresh = fresh
        self._digest = digest
        self._something = something
        """Set when there is something to claim."""
        self._waiting: deque[tuple[Append, asyncio.Future[None]]] = deque()
        self._committing = False

    async def append(self, events: Sequence[Event]) -> None:
        """See `ports.EventQueue.append`."""
        self._database.refuse_if_damaged()
        counted = (len(events), sum([len(event.body) for event in events]))
        if not self._backlog.is_followed:
            await self._backlog.measure(*counted)
        if self._backlog.is_too_much(*counted):
            # What was accepted before is no more work: its producer hears what it should have heard the first time.
            counted = await self._unknown(events)
            if self._backlog.is_too_much(*counted):
                raise self._backlog.refusal(*counted)
        self._backlog.count(*counted)
        append = Append(events, counted)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((append, done))
        if not self._committing:
            self._committing = True
            committing = asyncio.create_task(self._commit_all())
            committing.add_done_callback(_raise_unexpected)
        # The commit goes on without a caller that has given up: what is durable is delivered.
        await asyncio.shield(done)

    async def _unknown(self, events: Sequence[Event]) -> tuple[int, int]:
        """How many of them are not on record yet, and their size."""
        ids = [event.id for event in events]
        known = set(await self._database.read(lambda driver: append_sql.known_ids(driver, ids, self._digest)))
        count = size = 0
        for event in events:
            if event.id not in known:
                known.add(event.id)  # the same again in this batch is one event
                count, size = count + 1, size + len(event.body)
        return count, size

    async def _commit_all(self) -> None:
        """Commit what has gathered, again and again until nothing has."""
        try:
            while self._waiting:
                taken = list(islice(self._waiting, None))
                self._waiting.clear()
                await self._commit([append for append, _ in taken])
                for append, done in taken:
                    self._answer(append, done)
                self._something.set()
        finally:
            self._committing = False

    async def _commit(self, appends: Sequence[Append]) -> None:
        digest = self._digest
        try:
            try:
                await self._database.write(lambda driver: append_sql.insert(driver, appends, digest))
            except sqlite3.IntegrityError:
                # Some of the ids are known. Most are not: so they are looked up only now.
                await self._database.write(lambda driver: append_sql.insert_unknown(driver, appends, digest))
        except WriteFailure as error:
            for append in appends:
                append.failed(error)
        except Exception:
            # One producer's batch (a value that SQLite cannot take): that one fails, those beside it do not.
            for append in appends:
                append.error, append.seqs = None, []
                await self._commit_alone(append)

    async def _commit_alone(self, append: Append) -> None:
        try:
            insert = partial(append_sql.insert_unknown, appends=[append], digest=self._digest)
            await self._database.write(lambda driver: insert(driver))
        except Exception as error:
            append.failed(error)

    def _answer(self, append: Append, done: asyncio.Future[None]) -> None:
        self._fresh.appended(append.seqs)
        events, size = append.counted
        if append.error is not None:
            self._backlog.count(-events, -size)
            done.set_exception(append.error)
            return
        if len(append.seqs) < len(append.events):
            inserted = (len(append.seqs), sum([len(event.body) for _, event in append.seqs]))
            self._backlog.count(inserted[0] - events, inserted[1] - size)
        done.set_result(None)


def _raise_unexpected(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()  # type: ignore[misc]
