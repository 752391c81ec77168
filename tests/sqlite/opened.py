"""Opens one SQLite store as production does, with clocks that go and workers that are threads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.new_store import lay_out

from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

SMALL = SqliteOptions(max_events=100, max_bytes=1_000_000, lease_s=30)


@asynccontextmanager
async def opened(path: Path, options: SqliteOptions = SMALL, *, server: bool = False) -> AsyncIterator[SqliteStore]:
    """The store at `path`, started."""
    lay_out(path)
    store = await open_store(path, options, server=server)
    try:
        await store.start()
        yield store
    finally:
        await store.close()
