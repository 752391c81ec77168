"""Appends what producers hand over: what gathers while one commit runs goes into the next (group commit)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from tocsin.domain.events import Event, EventId
from tocsin.store.backlog import BacklogBound
from tocsin.store.ports import EventIdConflict, WriteFailure

T = TypeVar("T")


class Append:
    """One producer's batch on its way into the next commit."""

    __slots__ = ("counted", "error", "events", "inserted")

    def __init__(self, events: Sequence[Event], counted: tuple[int, int]) -> None:
        self.events = events
        self.counted = counted
        """What the backlog was told to expect of it: events and bytes."""
        self.inserted: list[tuple[int, Event]] = []
        """What was inserted, each with a number by which its store knows where."""
        self.error: Exception | None = None

    def failed(self, error: Exception) -> None:
        self.error, self.inserted = error, []


class KnownId(Exception):  # noqa: N818 (it says what is so)
    """An id is known, or twice in a batch; nothing was inserted."""


class Inserts(Protocol):
    """How a store inserts events, each call in a transaction of its own."""

    def refuse(self) -> None:
        """Raises StoreUnavailable where nothing can be accepted at present."""

    async def known(self, ids: Sequence[EventId]) -> Iterable[str]:
        """Those of the ids that are on record."""

    async def insert(self, appends: Sequence[Append]) -> None:
        """Insert the batches of several producers, and note in each what was inserted. Raises KnownId, WriteFailure."""

    async def insert_unknown(self, appends: Sequence[Append]) -> None:
        """The same, without what is on record already; a batch in which an id is in conflict is left out whole, and
        gets the error. Raises WriteFailure."""

    def inserted(self, append: Append) -> None:
        """Told of each batch when its commit is done."""


class Appender:
    def __init__(
        self,
        inserts: Inserts,
        backlog: BacklogBound,
        something: Callable[[], None],
    ) -> None:
        self._inserts = inserts
        self._backlog = backlog
        self._something = something
        """Called when there is something to claim."""
        self._waiting: deque[tuple[Append, asyncio.Future[None]]] = deque()
        self._committing = False

    async def append(self, events: Sequence[Event]) -> None:
        """See `ports.EventQueue.append`."""
        self._inserts.refuse()
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
        known = set(await self._inserts.known(ids))
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
                self._something()
        finally:
            self._committing = False

    async def _commit(self, appends: Sequence[Append]) -> None:
        try:
            try:
                await self._inserts.insert(appends)
            except KnownId:
                # Some of the ids are known. Most are not: so they are looked up only now.
                await self._inserts.insert_unknown(appends)
        except WriteFailure as error:
            for append in appends:
                append.failed(error)
        except Exception:
            # One producer's batch (a value that the store cannot take): that one fails, those beside it do not.
            for append in appends:
                append.error, append.inserted = None, []
                await self._commit_alone(append)

    async def _commit_alone(self, append: Append) -> None:
        try:
            await self._inserts.insert_unknown([append])
        except Exception as error:
            append.failed(error)

    def _answer(self, append: Append, done: asyncio.Future[None]) -> None:
        self._inserts.inserted(append)
        events, size = append.counted
        if append.error is not None:
            self._backlog.count(-events, -size)
            done.set_exception(append.error)
            return
        if len(append.inserted) < len(append.events):
            inserted = (len(append.inserted), sum([len(event.body) for _, event in append.inserted]))
            self._backlog.count(inserted[0] - events, inserted[1] - size)
        done.set_result(None)


def _raise_unexpected(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()  # type: ignore[misc]


def unknown(events: Sequence[Event], known: dict[str, T], digest: Callable[[bytes], T]) -> Sequence[Event]:
    """Those that are not on record yet; they are added to `known` (id to digest) once the whole batch is good.

    Raises:
        EventIdConflict: an id is known with other content.
    """
    added: dict[str, T] = {}
    fresh = []
    for index, event in enumerate(events):
        before, own = added.get(event.id, known.get(event.id)), digest(event.body)
        if before is None:
            added[event.id] = own
            fresh.append(event)
        elif before != own:
            raise EventIdConflict(index)
    known.update(added)
    return fresh
