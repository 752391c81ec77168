"""Opens PostgreSQL stores on a model of the database (`tests.simulator.model_store`): nothing of it takes any time."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec.structs import replace

from tests.simulator.model_store.connection import Way
from tests.simulator.model_store.database import ModelDatabase
from tests.support.clocks import Clocks
from tests.support.postgres import options
from tests.support.sqlite import LEASE_S
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.store import PostgresStore


class ModelStores:
    """Stores on one model of a database, as `PostgresStores` has them on a real one."""

    def __init__(self, directory: Path, clocks: Clocks, life: AsyncExitStack) -> None:
        self._life = life
        self.clocks = clocks
        self._database = ModelDatabase(time.time)
        self._open: list[PostgresStore] = []

    async def open(
        self, *, max_events: int = 1_000_000, max_bytes: int = 1 << 40, lease_s: float = LEASE_S, server: bool = True
    ) -> PostgresStore:
        given = options(
            "postgresql://model/tocsin",
            self.clocks,
            max_events=max_events,
            max_bytes=max_bytes,
            lease_s=lease_s,
            search=False,
        )
        store = await open_store(replace(given, dial=Way(self._database).dial), server=server)
        self._open.append(store)
        self._life.push_async_callback(store.close)
        if server:
            await store.start()
            await store.stop_duties()
        return store

    async def noticed(self, store: PostgresStore) -> None:
        """Returns when `store` has noticed all that other processes have changed."""
        await store.beat()
        await store.notice_changes()

    async def reopen(self, **options: int) -> PostgresStore:
        """After an orderly end."""
        stores, self._open = self._open, []
        for store in stores:
            await store.close()
        return await self.open(**options)

    async def crash(self, **options: int) -> PostgresStore:
        """After a kill: nothing was closed, and the database has noticed that the connections are gone."""
        stores, self._open = self._open, []
        for store in stores:
            await store.abandon()
        return await self.open(**options)
