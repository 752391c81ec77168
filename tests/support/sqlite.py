"""Opens SQLite stores for tests; ends them in order, or crashes them."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.clocks import Clocks
from tests.support.new_store import lay_out
from tocsin.store.master_keys import KeyFile
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

LEASE_S = 30.0


class SqliteStores:
    """Stores on one SQLite file. A crash is a copy of the file and its log, opened while the first still stands.

    A server's store is started, but does not look for changes of other processes by itself: `noticed` does it.
    """

    def __init__(self, directory: Path, clocks: Clocks, life: AsyncExitStack) -> None:
        self._directory = directory
        self._life = life
        self._servers: dict[Path, SqliteStore] = {}
        self.clocks = clocks
        self.path = directory / "0" / "tocsin.db"
        # One file of keys for the store and all copies of it.
        self.keys = KeyFile(directory / "tocsin.db.key")
        self._copies = 0

    async def open(
        self, *, max_events: int = 1_000_000, max_bytes: int = 1 << 40, lease_s: float = LEASE_S, server: bool = True
    ) -> SqliteStore:
        """The server's store, or with `server` false what another process (the command line) opens beside it."""
        options = SqliteOptions(
            max_events=max_events,
            max_bytes=max_bytes,
            lease_s=lease_s,
            keys=self.keys,
            search=True,
            wall_clock=self.clocks.wall,
            monotonic=self.clocks.monotonic,
        )
        lay_out(self.path)
        store = await open_store(self.path, options, server=server)
        self._life.push_async_callback(store.close)
        if server:
            await store.start()
            assert store._noticing is not None
            store._noticing.cancel()
            self._servers[self.path] = store
        return store

    async def noticed(self, store: SqliteStore) -> None:
        """Returns when `store` has noticed all that other processes have changed."""
        await store.notice_changes()

    async def close(self) -> None:
        await self._servers.pop(self.path).close()

    async def reopen(self, **options: int) -> SqliteStore:
        """After an orderly end."""
        await self.close()
        return await self.open(**options)

    async def crash(self, **options: int) -> SqliteStore:
        """After a kill: nothing was closed, and all that is left is what was written."""
        self._copies += 1
        target = self._directory / str(self._copies)
        target.mkdir()
        for suffix in ("", "-wal"):
            left = self.path.with_name(self.path.name + suffix)
            if left.exists():
                shutil.copy(left, target / left.name)
        self.path = target / self.path.name
        return await self.open(**options)
