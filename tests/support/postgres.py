"""Opens PostgreSQL stores for tests; ends them in order, or crashes them."""

from __future__ import annotations

import asyncio
import base64
import functools
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from tests.support.clocks import Clocks
from tests.support.postgres_server import shared_server
from tests.support.sqlite import LEASE_S
from tocsin.store.master_keys import KeyText
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.options import PostgresOptions
from tocsin.store.postgres.store import PostgresStore

MASTER_KEY = base64.b64encode(bytes(range(32))).decode()
_TEMPLATE = "tocsin_template"
FRESH_S = 0.02
"""Much shorter than in service: who takes logs over after a crash waits for it."""


async def execute(statement: str, database: str = "postgres") -> None:
    await fetch(shared_server().url(database), statement)


async def fetch(url: str, statement: str, *values: Any) -> list[Any]:
    """The rows of a statement, on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = await connection.fetch(statement, *values)
        return rows
    finally:
        await connection.close()


@functools.cache
def _template_exists() -> list[bool]:
    return []


async def new_database() -> str:
    """The name of a new database on the shared server, with the tables of a store."""
    if not _template_exists():
        await execute(f"CREATE DATABASE {_TEMPLATE}")
        store = await open_store(options(shared_server().url(_TEMPLATE), Clocks()))
        await store.close()
        _template_exists().append(True)
    name = f"t_{uuid4().hex}"
    await execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    return name


async def drop_database(name: str) -> None:
    await execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def options(
    url: str,
    clocks: Clocks | None,
    *,
    max_events: int = 1_000_000,
    max_bytes: int = 1 << 40,
    lease_s: float = LEASE_S,
    fresh_s: float = FRESH_S,
    search: bool = True,
    session_url: str | None = None,
    delivers: bool = True,
) -> PostgresOptions:
    """With `clocks` None the real ones count."""
    given = {} if clocks is None else {"wall_clock": clocks.wall, "monotonic": clocks.monotonic}
    return PostgresOptions(
        url=url,
        session_url=session_url,
        max_events=max_events,
        max_bytes=max_bytes,
        lease_s=lease_s,
        keys=KeyText("the test's key", lambda: MASTER_KEY),
        fresh_s=fresh_s,
        search=search,
        delivers=delivers,
        **given,
    )


class PostgresStores:
    """Stores on one database of the shared server. A crash cuts all connections of what is open.

    A server's store is started, but does nothing by itself between the calls of a test: `noticed` does it.
    """

    def __init__(self, directory: Path, clocks: Clocks, life: AsyncExitStack) -> None:
        self._life = life
        self.clocks = clocks
        self._database: str | None = None
        self._open: list[PostgresStore] = []

    @property
    def url(self) -> str:
        assert self._database is not None
        return shared_server().url(self._database)

    async def open(
        self, *, max_events: int = 1_000_000, max_bytes: int = 1 << 40, lease_s: float = LEASE_S, server: bool = True
    ) -> PostgresStore:
        """The server's store, or with `server` false what another process (the command line) opens beside it."""
        given = await self._options(max_events=max_events, max_bytes=max_bytes, lease_s=lease_s)
        store = await open_store(given, server=server)
        self._open.append(store)
        self._life.push_async_callback(store.close)
        if server:
            await store.start()
            await store.stop_duties()
        return store

    async def connection(self) -> Any:
        """A connection to the same database, until the test ends."""
        connection = await asyncpg.connect(self.url)
        self._life.push_async_callback(connection.close)
        return connection

    async def noticed(self, store: PostgresStore) -> None:
        """Returns when `store` has noticed all that other processes have changed."""
        await store.beat()
        await store.notice_changes()

    async def close(self) -> None:
        """Every server ends in order."""
        stores, self._open = self._open, []
        for store in stores:
            await store.close()

    async def reopen(self, **options: int) -> PostgresStore:
        """After an orderly end."""
        await self.close()
        return await self.open(**options)

    async def crash(self, **options: int) -> PostgresStore:
        """After a kill: nothing was closed, and the server has noticed that the connections are gone."""
        stores, self._open = self._open, []
        for store in stores:
            await store.abandon()
        await self._connections_are_gone()
        return await self.open(**options)

    async def _options(self, **bounds: Any) -> PostgresOptions:
        if self._database is None:
            self._database = await new_database()
            self._life.push_async_callback(drop_database, self._database)
        return options(self.url, self.clocks, **bounds)

    async def _connections_are_gone(self) -> None:
        await connections_are_gone(self.url)


async def connections_are_gone(url: str) -> None:
    """Returns when nobody is connected to this database any more."""
    connection = await asyncpg.connect(url)
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name LIKE 'tocsin%'"
    )
    try:
        async with asyncio.timeout(20):
            while await connection.fetchval(others):
                await asyncio.sleep(0.002)
    finally:
        await connection.close()
