"""Search on SQLite: an index beside the store, filled and asked on a thread of its own.

Neither the store's writer nor its reader waits for it. A command, which has no thread for it, asks the file as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from tocsin.store.ports import SearchUnavailable, StoreUnavailable
from tocsin.store.records import Cursor, Findings, IndexState, Query
from tocsin.store.search_page import OFF, Page
from tocsin.store.sqlite import search_feed
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.failures import is_corruption, is_failed_sync, os_sentence, sentence
from tocsin.store.sqlite.search_feed import Recent
from tocsin.store.sqlite.search_index import SearchIndex, delete, index_path
from tocsin.store.sqlite.search_look import Look
from tocsin.store.sqlite.worker import Job, StartWorker, Worker

T = TypeVar("T")

log = structlog.get_logger(__name__)

_LOOK_FOR_S: Final = 0.2
_NOTHING: Final = IndexState(0.0, 0, rebuilding=False, indexed_to_ms=None)
NO_INDEX: Final = "there is no index of the search yet: the server makes it; start it with `tocsin serve`"


class _Jobs:
    """See `worker.Jobs`: the index is opened by the first job, and again after it was found damaged."""

    def __init__(self, store: Path, recent: Recent, *, read_only: bool) -> None:
        self._store = store
        self._recent = recent
        self._read_only = read_only
        self._index: SearchIndex | None = None
        self._to_delete = False
        self._failing = False

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                job.result = job.call(self._opened())  # type: ignore[arg-type]
            except Exception as error:
                job.error = self._told(error)
            else:
                self._failing = False

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def _opened(self) -> SearchIndex:
        if self._to_delete:
            self._delete()
        if self._index is None:
            self._index = SearchIndex(self._store, self._recent, read_only=self._read_only)
        return self._index

    def _delete(self) -> None:
        """Nothing is done with the index until it is gone for good. It is closed last: then SQLite moves the log into
        the file, and deletes it."""
        self._to_delete = True
        delete(self._store)
        self._to_delete = False
        with contextlib.suppress(sqlite3.Error):
            self.close()
        self._index = None

    def _told(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error | OSError):
            return error
        if (is_corruption(error) or is_failed_sync(error)) and not self._read_only:
            # It has nothing that the store has not.
            if not self._failing:
                log.warning("the index of the search is damaged; it is made again", error=str(error))
            with contextlib.suppress(OSError):
                self._delete()
        elif not self._failing:
            log.warning("the index of the search cannot be used; what is delivered is not affected", error=str(error))
        self._failing = True
        reason = os_sentence(error) if isinstance(error, OSError) else sentence(error)
        unavailable = StoreUnavailable(f"the index of the search: {reason}")
        unavailable.__cause__ = error
        return unavailable


class SqliteSearch:
    """See `ports.Search`. Without `recent` it is switched off."""

    def __init__(
        self,
        path: Path,
        database: Database,
        recent: Recent | None,
        *,
        server: bool,
        start_worker: StartWorker,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._path = path
        self._database = database
        self._server = server
        self._recent = recent
        self._start_worker = start_worker
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._worker: Worker | None = None
        self._closed = False
        self._forgotten = 0

    async def start(self) -> None:
        """The server begins: without an index nobody would read the feed."""
        if self._recent is None:
            await self._database.write(search_feed.clear)

    async def find(
        self, query: Query, limit: int, *, start: Cursor | None = None, for_s: float = _LOOK_FOR_S
    ) -> Findings:
        if self._recent is None:
            raise SearchUnavailable(OFF)
        if not self._server and not index_path(self._path).exists():
            raise SearchUnavailable(NO_INDEX)

        def find(index: SearchIndex) -> Findings:
            until = self._monotonic() + for_s
            driver = index.driver
            driver.execute("BEGIN")
            try:
                state = index.state(self._now_ms())
                page = Page(query, limit, start)
                Look(driver, page, lambda: self._monotonic() >= until).look()
            finally:
                driver.execute("ROLLBACK")
            return page.findings(state)

        return await self._submit(find)

    async def fill(self, for_s: float) -> bool:
        if self._recent is None:
            return False
        until = self._monotonic() + for_s
        while await self._submit(SearchIndex.step):
            if self._monotonic() >= until:
                return True
        return False

    async def state(self) -> IndexState:
        if self._recent is None:
            return _NOTHING
        return await self._submit(lambda index: index.state(self._now_ms()))

    async def prune(self) -> None:
        """Delete what the index has looked at from the feed, and drop what the store has forgotten."""
        if self._recent is None:
            return

        def prune(index: SearchIndex) -> int | None:
            index.prune()
            return index.make_durable() if index.position > self._forgotten else None

        position = await self._submit(prune)
        if position is not None:
            await self._database.write(lambda driver: search_feed.forget(driver, position))
            self._forgotten = position

    async def close(self) -> None:
        self._closed = True
        if self._worker is not None:
            await self._worker.close()

    async def _submit(self, call: Callable[[SearchIndex], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._worker is None:
            assert self._recent is not None, "where it is switched off nobody comes here"
            jobs: Any = _Jobs(self._path, self._recent, read_only=not self._server)
            self._worker = self._start_worker("tocsin-search", jobs)
        future: asyncio.Future[tuple[T, bool]] = asyncio.get_running_loop().create_future()
        self._worker.submit(Job(call, future))  # type: ignore[arg-type]
        result, _ = await future
        return result

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)
