"""Several nodes on one database, in one process, with the real clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
from tests.contract.support import new_id
from tests.support.postgres import fetch, options
from tests.support.postgres_server import shared_server

from tocsin.domain.events import Event, UserId
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.store import PostgresStore

FRESH_S = 0.3
"""Shorter than in service, so that tests of takeovers are; long enough for a busy machine."""


class Nodes:
    """Opens stores on one database. With `duties` a node does by itself what it does in service. `through` is the way
    that leads through PgBouncer; sessions go past it."""

    def __init__(self, database: str, life: AsyncExitStack, *, through: str | None = None) -> None:
        self.url = shared_server().url(database)
        self._through = through
        self._life = life

    async def open(
        self, *, server: bool = True, duties: bool = False, fresh_s: float = FRESH_S, **how: Any
    ) -> PostgresStore:
        url = how.pop("through", self._through) or self.url
        if url != self.url:
            how = {"session_url": self.url} | how
        store = await open_store(options(url, None, fresh_s=fresh_s, **how), server=server)
        self._life.push_async_callback(store.close)
        if server:
            await store.start()
            if not duties:
                await store.stop_duties()
        return store

    async def share(self, *stores: PostgresStore) -> None:
        """Returns when each of these nodes has its share of the logs."""
        async with asyncio.timeout(60):
            while len({len(store.ownership.held) for store in stores}) > 1 or not stores[0].ownership.held:
                for store in stores:
                    await store.beat()
                    await store.rebalance()

    async def connection(self) -> Any:
        connection = await asyncpg.connect(self.url)
        self._life.push_async_callback(connection.close)
        return connection

    async def execute(self, statement: str, *values: Any) -> list[Any]:
        return await fetch(self.url, statement, *values)


def event_of(store: PostgresStore, owner: UserId, *, urgent: bool = False, phone: str = "1") -> Event:
    message = "dialplan_callreverse_start" if urgent else "fax_new"
    now_ms = store.now_ms()
    return Event(new_id(), owner, message, now_ms, now_ms + 3_600_000, f'{{"phone":"{phone}"}}'.encode())


def owners(count: int) -> list[UserId]:
    """Owners in many logs."""
    return [UserId(f"{n:08x}-3803-11e3-8475-0024e8f90cc0") for n in range(count)]


async def until(holds: Callable[[], Any], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)
