"""The one session of a process that serves: it holds the locks, settles, and sends the heartbeats.

Connection gone, locks gone, right to settle gone. Everything on it runs one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import structlog

from tocsin.store.ports import CommitUnknown, StoreUnavailable
from tocsin.store.postgres.connections import Connection, Target, Watched, connect, in_transaction
from tocsin.store.postgres.failures import is_gone, sentence, told

log = structlog.get_logger(__name__)

T = TypeVar("T")

NODE_LOCKS: Final = 0x746F6E6F
"""The first key of the advisory lock that a node holds for as long as its session lives; the second is its number."""
CHANNEL: Final = "tocsin"


class Session:
    def __init__(self, target: Target, notified: Callable[[str], None]) -> None:
        self._target = target
        self._notified = notified
        self._watched: Watched | None = None
        self._one_at_a_time = asyncio.Lock()
        self._taken_up_by: asyncio.Task[object] | None = None
        self.failure: str | None = None
        self.number = 0
        """Of the session that there is, or was last: a lock that was taken on another one is gone."""

    @property
    def is_connected(self) -> bool:
        return self._watched is not None and not self._watched.connection.is_closed()

    async def connect(self) -> None:
        """Begin a new session. Raises StoreUnavailable."""
        try:
            watched = await connect(self._target)
            await watched.connection.add_listener(CHANNEL, self._heard)
        except Exception as error:
            self.failure = sentence(error)
            raise told(error) from None
        self._watched, self.failure = watched, None
        self.number += 1

    @contextlib.asynccontextmanager
    async def taken_up(self) -> AsyncIterator[None]:
        """Within, only this task may use the session. A new one has none of the locks of the one before: until it is
        known which logs are still this node's, nobody may settle on it."""
        self._taken_up_by = asyncio.current_task()
        try:
            yield
        finally:
            self._taken_up_by = None

    async def run(
        self, job: Callable[[Connection], Awaitable[T]], *, transaction: bool = True, wait_s: float | None = None
    ) -> T:
        """Run a job, in a transaction or as one statement that commits by itself; `wait_s` is how long it may wait for
        those before it.

        Raises:
            StoreUnavailable: it was not done.
            CommitUnknown: the connection was lost before its answer, or the standby has not answered.
        """
        try:
            async with asyncio.timeout(wait_s):
                await self._one_at_a_time.acquire()
        except TimeoutError:
            raise StoreUnavailable("the database does not answer") from None
        try:
            watched = self._watched
            if watched is None or watched.connection.is_closed():
                raise StoreUnavailable(self.failure or "the session with the database has ended")
            if self._taken_up_by not in (None, asyncio.current_task()):
                raise StoreUnavailable("the session with the database is not taken up yet")
            try:
                if transaction:
                    return await in_transaction(watched, job)
                watched.begin()
                result = await job(watched.connection)
                watched.refuse_unreplicated()
                return result
            except CommitUnknown:
                raise
            except BaseException as error:
                if is_gone(error):
                    self._lost(watched, sentence(error))
                raise told(error, committing=not transaction) from None
        finally:
            self._one_at_a_time.release()

    def end(self, why: str) -> None:
        """Use this session no more: its locks are free as soon as the server has noticed."""
        if self._watched is not None:
            self._lost(self._watched, self.failure or why)

    async def close(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            with contextlib.suppress(Exception):
                await watched.connection.close(timeout=2.0)

    def _lost(self, watched: Watched, why: str) -> None:
        if watched is self._watched:
            self._watched, self.failure = None, why
            log.warning("the session with the database has ended", why=why)
        watched.connection.terminate()

    def _heard(self, connection: Connection, pid: int, channel: str, payload: str) -> None:
        self._notified(payload)
