"""The way between one process and the model of the database, in virtual time: what is sent takes a while, arrives in
order, and the way may fail."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any, Final

from tests.simulator.model_store.connection import ModelConnection, Way
from tests.simulator.model_store.database import ModelDatabase

_APART_S: Final = 1e-6
_ROUND_TRIPS: Final = 3
"""Of a new connection: TCP, TLS, and who it is."""


class SimulatedWay(Way):
    is_simulated = True

    def __init__(self, database: ModelDatabase, random: Random, mean_s: float) -> None:
        super().__init__(database)
        self._random = random
        self._mean_s = mean_s
        self._loop = asyncio.get_running_loop()
        self._connections: dict[ModelConnection, None] = {}
        self._last_s: dict[tuple[ModelConnection, bool], float] = {}
        """When what was sent last arrives, by connection and direction."""
        self._cut_until_s = 0.0
        self._dead = False
        self.swallows_next: Callable[[], None] | None = None
        """The answer to the next commit is lost; called when it is."""

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def cut(self, seconds: float, *, ends: bool = False) -> None:
        """For so long nothing arrives in either direction; afterwards all of it does that was sent on connections which
        are still open. `ends`: the database ends the sessions at once, and the client does not hear of it."""
        self._cut_until_s = self._loop.time() + seconds
        for connection in list(self._connections) if ends else ():
            self.database.terminate(connection.backend)

    def drop_all(self) -> None:
        """Every connection is reset: the client finds it now, the database within some seconds."""
        for connection in list(self._connections):
            self._reset(connection, self._random.choice((0.0, 0.2, 3.0)) * self._random.random())

    def die(self) -> None:
        """The process is gone. The database is told by its kernel, as soon as the way lets that through."""
        self._dead = True
        for connection in list(self._connections):
            self._at(connection, True, connection.backend.close, self.database.context)

    # -- Way -----------------------------------------------------------------------------------------------------------

    async def dial(self, url: str, *, server_settings: dict[str, str], timeout: float, **_: Any) -> ModelConnection:
        wait_s = max(0.0, self._cut_until_s - self._loop.time()) + sum([self._draw_s() for _ in range(_ROUND_TRIPS)])
        if wait_s > timeout:
            await asyncio.sleep(timeout)
            raise TimeoutError
        await asyncio.sleep(wait_s)
        if self._dead or not self.database.is_up:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        connection = ModelConnection(self)
        connection.backend = self.database.open(server_settings["application_name"], connection.server_ended)
        self._connections[connection] = None
        return connection

    def to_database(self, connection: ModelConnection, call: Callable[[], None]) -> None:
        if not self._dead:
            self._at(connection, True, call, self.database.context)

    def to_client(self, connection: ModelConnection, call: Callable[[], None]) -> None:
        if not self._dead:
            self._at(connection, False, call, connection.context)

    def swallows_commit(self, connection: ModelConnection) -> bool:
        swallowed, self.swallows_next = self.swallows_next, None
        if swallowed is None:
            return False
        swallowed()
        return True

    def forget(self, connection: ModelConnection) -> None:
        self._connections.pop(connection, None)

    # -- within --------------------------------------------------------------------------------------------------------

    def _at(self, connection: ModelConnection, to_database: bool, call: Callable[[], None], context: Context) -> None:
        last = self._last_s.get((connection, to_database), 0.0)
        at_s = max(last + _APART_S, self._cut_until_s, self._loop.time() + self._draw_s())
        self._last_s[connection, to_database] = at_s
        self._loop.call_at(at_s, call, context=context)

    def _reset(self, connection: ModelConnection, noticed_s: float) -> None:
        backend = connection.backend
        self._loop.call_soon(connection.lost, context=connection.context)
        self._loop.call_later(noticed_s, backend.close, context=self.database.context)

    def _draw_s(self) -> float:
        return min(self._random.expovariate(1 / self._mean_s), 20 * self._mean_s)
