"""Wakes those who wait for something to claim: here at once, on other nodes by NOTIFY.

NOTIFY takes a lock of the whole server when its transaction commits. So it is never part of a transaction that writes:
what was appended meanwhile is gathered, and told about a hundred times a second at most. It only wakes; whoever misses
it finds what there is at the next heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from tocsin.store.ports import WriteFailure
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.session import CHANNEL

_GATHER_S: Final = 0.01
_NOTIFY: Final = "SELECT pg_notify($1, $2)"
SIGNALS: Final = "signals"
"""What is notified when a signal was written; else the numbers of logs."""


async def _notify(payload: str, connection: Connection) -> None:
    await connection.execute(_NOTIFY, CHANNEL, payload)


class Wakes:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._to_tell: set[str] = set()
        self._telling: asyncio.Task[None] | None = None
        self._local: Callable[[Collection[int]], Collection[int]] = lambda logs: logs

    def when_appended(self, local: Callable[[Collection[int]], Collection[int]]) -> None:
        """`local` is told of logs to which something was appended; it returns those that others deliver."""
        self._local = local

    def appended(self, logs: Collection[int]) -> None:
        self._tell({str(log) for log in self._local(logs)})

    def signalled(self) -> None:
        self._tell({SIGNALS})

    def _tell(self, words: Collection[str]) -> None:
        self._to_tell.update(words)
        if self._to_tell and self._telling is None:
            self._telling = asyncio.create_task(self._tell_all(), name="notifying other nodes")

    async def _tell_all(self) -> None:
        try:
            while self._to_tell:
                await asyncio.sleep(_GATHER_S)
                words, self._to_tell = self._to_tell, set()
                with contextlib.suppress(WriteFailure):
                    await self._database.read(partial(_notify, " ".join(words)))
        finally:
            self._telling = None

    async def close(self) -> None:
        """Tell what is still to be told."""
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)

    def abandon(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
