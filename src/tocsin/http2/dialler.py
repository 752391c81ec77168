"""Opens the connections of a pool, one at a time, with back-off after failures.

The back-off is exponential with full jitter: Apple treats rapid reconnecting as a denial-of-service attack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

import structlog

from tocsin.domain.backoff import doubled_s

log = structlog.get_logger(__name__)

_BACKOFF_FIRST_S: Final = 0.5
_BACKOFF_CAP_S: Final = 60.0

C = TypeVar("C")


class Used(Protocol):
    """A connection, as far as the dialler looks at it."""

    @property
    def opened_at(self) -> float:
        """`loop.time()`."""

    @property
    def answered(self) -> int:
        """Requests that got a status."""


class Dialler(Generic[C]):
    """At most one dial is under way; the next one waits for the end of the back-off.

    Args:
        origin: for the log.
        connect: opens one connection, or raises.
        opened: gets the connection.
        failed: gets what `connect` raised; the back-off has been extended by then.
        random: uniform in [0, 1).
    """

    def __init__(
        self,
        origin: str,
        connect: Callable[[], Awaitable[C]],
        opened: Callable[[C], None],
        failed: Callable[[Exception], None],
        *,
        random: Callable[[], float],
    ) -> None:
        self._origin = origin
        self._connect = connect
        self._opened = opened
        self._failed = failed
        self._random = random
        self._loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None
        """Opens a connection, or waits for the end of the back-off to do so; None while no dial is under way."""
        self._is_waiting = False
        self._not_before = 0.0
        self._failed_at = 0.0
        self.failures = 0
        """In a row, without a connection of use between them."""

    def start(self) -> None:
        """Open a connection; only while none is being opened."""
        self._is_waiting = True
        self.task = self._loop.create_task(self._dial())

    def succeeded(self, connections: Iterable[Used]) -> None:
        """A request succeeded on one of these. Where one that was opened since the last failure has been of use, the
        next failure is the first again; what still works on an older one says nothing of new ones."""
        if any(connection.answered and connection.opened_at > self._failed_at for connection in connections):
            self.failures = 0

    def back_off(self, why: str) -> None:
        """Count a failure: the next dial waits up to 0.5 s, doubled with each failure in a row, at most 60 s."""
        self.failures += 1
        bound = doubled_s(_BACKOFF_FIRST_S, _BACKOFF_CAP_S, self.failures - 1)
        self._failed_at = self._loop.time()
        self._not_before = self._failed_at + bound * self._random()
        log.warning("connection failed", origin=self._origin, error=why, failures=self.failures)

    def stop_waiting(self) -> None:
        """Where no connection is being opened yet, open none."""
        if self.task is not None and self._is_waiting:
            self.task.cancel()
            self.task = None

    async def close(self) -> None:
        """Cancel the dial that is under way."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    async def _dial(self) -> None:
        try:
            wait_s = self._not_before - self._loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._is_waiting = False
            connection = await self._connect()
        except Exception as error:
            # Of whatever kind: a credential that does not load fails the requests that wait, and the pool lives on.
            self.task = None
            self.back_off(str(error) or type(error).__name__)
            self._failed(error)
        else:
            self.task = None
            self._opened(connection)
