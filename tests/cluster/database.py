"""A primary and its synchronous standby, which may take turns: on the same two ports throughout."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

import asyncpg

from tests.support.postgres_server import SUPERUSER, PostgresServer, remove
from tests.torture.processes import free_ports

DATABASE: Final = "tocsin"
_SYNC_S: Final = 60.0
# Kept off the disk: a process that is killed loses nothing of it all the same.
_SETTINGS: Final = {
    "fsync": "off",
    "hot_standby": "on",
    "dynamic_shared_memory_type": "mmap",
    "cluster_name": "standby",  # by which a primary knows it
}
# Only what follows and replays counts: a copy that is being made is no standby.
_FOLLOWING: Final = """SELECT count(*) FROM pg_stat_replication
    WHERE application_name = 'standby' AND state = 'streaming' AND flush_lsn >= $1::text::pg_lsn"""


class ReplicatedDatabase:
    """`fail_over` makes the standby the primary; `make_standby` then copies a new standby from it."""

    def __init__(self, life: ExitStack) -> None:
        self._life = life
        first = free_ports(2)
        self.ports = (first, first + 1)
        """Of both servers, whichever is the primary."""
        self.primary: PostgresServer
        self.standby: PostgresServer | None = None

    async def open(self) -> None:
        """Returns when nothing is committed any more that the standby does not have."""
        self.primary = await asyncio.to_thread(PostgresServer, _SETTINGS, port=self.ports[0])
        self._life.callback(remove, self.primary)
        await asyncio.to_thread(self.primary.start)
        await self.ask(f"CREATE DATABASE {DATABASE}", database="postgres")
        await self.make_standby()

    def url(self, ports: Sequence[int] | None = None) -> str:
        """For `store.url`: both hosts. `ports` are others that lead to the same servers."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports or self.ports)
        return f"postgresql://{SUPERUSER}@{hosts}/{DATABASE}?sslmode=disable"

    async def ask(
        self, statement: str, *values: Any, server: PostgresServer | None = None, database: str = DATABASE
    ) -> list[Any]:
        """Run a statement, at the primary by default."""
        connection = await asyncpg.connect((server or self.primary).url(database), timeout=20)
        try:
            rows: list[Any] = await connection.fetch(statement, *values)
            return rows
        finally:
            await connection.close(timeout=5)

    async def promote(self) -> PostgresServer:
        """Make the standby the primary, whatever the primary does; returns the one before, which nobody follows now.

        The new one acknowledges commits by itself until it has a standby.
        """
        assert self.standby is not None
        before, self.primary, self.standby = self.primary, self.standby, None
        await self.ask("SELECT pg_promote()", database="postgres")
        return before

    async def fail_over(self) -> None:
        """The primary's machine is lost, and the standby is promoted."""
        before = self.primary
        await asyncio.to_thread(before.kill)
        await self.promote()
        await asyncio.to_thread(remove, before)

    async def make_standby(self) -> None:
        """Copy a standby from the primary, on the port that is free. Returns when commits wait for it."""
        (port,) = set(self.ports) - {self.primary.port}
        standby = await asyncio.to_thread(PostgresServer.copy_of, self.primary, _SETTINGS, port=port)
        self._life.callback(remove, standby)
        await asyncio.to_thread(standby.start)
        self.standby = standby
        await self._until_followed()
        await self.ask("ALTER SYSTEM SET synchronous_standby_names = 'standby'", database="postgres")
        await self.ask("SELECT pg_reload_conf()", database="postgres")
        async with asyncio.timeout(_SYNC_S):
            while not await self.ask("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
                await asyncio.sleep(0.05)
        # A backend reads the settings anew before its next statement: what it had begun did not wait.
        await asyncio.sleep(0.2)
        await self._until_followed()

    async def stop_standby(self) -> None:
        assert self.standby is not None
        await asyncio.to_thread(self.standby.stop, signal.SIGINT)

    async def start_standby(self) -> None:
        """Returns when it follows again."""
        assert self.standby is not None
        await asyncio.to_thread(self.standby.start)
        await self._until_followed()

    async def _until_followed(self) -> None:
        ((at,),) = await self.ask("SELECT pg_current_wal_lsn()::text")
        async with asyncio.timeout(_SYNC_S):
            while (await self.ask(_FOLLOWING, at))[0][0] == 0:
                await asyncio.sleep(0.05)
