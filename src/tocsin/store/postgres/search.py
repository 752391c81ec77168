"""Search on PostgreSQL: an index in tables of its own, which one process at a time fills and every process asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import asyncpg

from tocsin.store.ports import SearchUnavailable
from tocsin.store.postgres import partitions, search_feed
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.horizons import Horizons
from tocsin.store.postgres.search_feed import Filler
from tocsin.store.postgres.search_look import Look
from tocsin.store.records import Cursor, Findings, IndexState, Query
from tocsin.store.search_page import OFF, Page
from tocsin.store.searching import Shape

T = TypeVar("T")

_LOOK_FOR_S: Final = 0.2
_MOST_AT_ONCE: Final = 2
"""Further searches wait: the connections are there for deliveries, too."""
_NOTHING: Final = IndexState(0.0, 0, rebuilding=False, indexed_to_ms=None)


class PostgresSearch:
    """See `ports.Search`."""

    def __init__(
        self,
        database: Database,
        horizons: Horizons,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        *,
        is_on: bool,
    ) -> None:
        self._database = database
        self._horizons = horizons
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._is_on = is_on
        self._filler = Filler(horizons)
        self._shapes: dict[int, Shape] = {}
        self._looking = asyncio.Semaphore(_MOST_AT_ONCE)

    async def find(
        self, query: Query, limit: int, *, start: Cursor | None = None, for_s: float = _LOOK_FOR_S
    ) -> Findings:
        if not self._is_on:
            raise SearchUnavailable(OFF)
        page = Page(query, limit, start)
        async with self._looking:
            return await self._database.read(partial(self._find, page=page, for_s=for_s))

    async def _find(self, connection: Connection, page: Page, for_s: float) -> Findings:
        until = self._monotonic() + for_s
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await self._horizons.read(connection)
            state = await search_feed.state(connection, self._now_ms())
            if len(self._shapes) != await search_feed.count_shapes(connection):
                self._shapes = await search_feed.shapes_of(connection)
            look = Look(connection, page, self._shapes, self._horizons, lambda: self._monotonic() >= until)
            await look.look()
        return page.findings(state)

    async def fill(self, for_s: float) -> bool:
        if not self._is_on:
            return False
        until = self._monotonic() + for_s
        while True:
            more = await self._step()
            if more is None:
                return False  # another process does it
            if not more:
                break
            if self._monotonic() >= until:
                return True
        await self._filled(lambda one: self._filler.sweep(one, self._now_ms()))
        return False

    async def _step(self) -> bool | None:
        try:
            return await self._filled(lambda one: self._filler.step(one, self._now_ms()))
        except asyncpg.CheckViolationError as error:
            if not partitions.is_missing(error):
                raise
        # The events are older than the index.
        await self._database.write(partitions.make_for_search)
        return True

    async def state(self) -> IndexState:
        if not self._is_on:
            return _NOTHING

        async def state(connection: Connection) -> IndexState:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await search_feed.state(connection, self._now_ms())

        return await self._database.read(state)

    async def _filled(self, job: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await self._database.write(job)
        except BaseException:
            self._filler.forget()
            raise
