"""What the store has of a connection: the part of asyncpg's interface that it uses, on a session of the model.

Between the two is a `Way`. In a simulation bytes take a while on it, and it can fail; in the contract's tests all of it
is at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any, Final

import asyncpg

from tests.simulator.model_store.backend import Backend
from tests.simulator.model_store.database import ModelDatabase
from tests.simulator.model_store.statements import statement_of
from tests.simulator.model_store.transactions import Transaction

_COMMAND_S: Final = 25.0
_VERSION: Final = SimpleNamespace(major=18)


class Way:
    """From one process to the database and back, at once and for ever."""

    is_simulated = False

    def __init__(self, database: ModelDatabase) -> None:
        self.database = database

    async def dial(self, url: str, *, server_settings: dict[str, str], timeout: float, **_: Any) -> ModelConnection:
        """In place of `asyncpg.connect`. Raises what that raises."""
        connection = ModelConnection(self)
        connection.backend = self.database.open(server_settings["application_name"], connection.server_ended)
        return connection

    def to_database(self, connection: ModelConnection, call: Callable[[], None]) -> None:
        call()

    def to_client(self, connection: ModelConnection, call: Callable[[], None]) -> None:
        call()

    def swallows_commit(self, connection: ModelConnection) -> bool:
        """Whether the answer to a commit that was just made is lost, and the connection with it."""
        return False

    def forget(self, connection: ModelConnection) -> None: ...


class ModelConnection:
    def __init__(self, way: Way) -> None:
        self.way = way
        self.context = copy_context()
        self.backend: Backend
        self.number = 0
        """Of the connections of its way."""
        self._closed = False
        self._pending: asyncio.Future[Any] | None = None
        self._listener: Callable[[Any, int, str, str], None] | None = None
        self._channel = ""

    # -- asyncpg's interface -------------------------------------------------------------------------------------------

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        statement, kind = statement_of(sql)
        return [kind(row) for row in await self._run(statement, values)]

    async def fetchrow(self, sql: str, *values: Any) -> Any:
        rows = await self.fetch(sql, *values)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *values: Any) -> Any:
        statement, _ = statement_of(sql)
        rows = await self._run(statement, values)
        return rows[0][0] if rows else None

    async def execute(self, sql: str, *values: Any) -> None:
        statement, _ = statement_of(sql)
        await self._run(statement, values)

    def transaction(self, *, isolation: str = "read_committed", readonly: bool = False) -> ModelTransaction:
        return ModelTransaction(self)

    async def add_listener(self, channel: str, heard: Callable[[Any, int, str, str], None]) -> None:
        def listen(transaction: Transaction) -> list[Any]:
            transaction.backend.hears = self._notified
            return []

        self._listener, self._channel = heard, channel
        await self._run(listen, ())

    def add_log_listener(self, heard: Any) -> None:
        """The model never warns."""

    def get_server_version(self) -> Any:
        return _VERSION

    def is_closed(self) -> bool:
        return self._closed

    def terminate(self) -> None:
        if not self._closed:
            self._close(asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"))
            self.way.to_database(self, self.backend.close)

    async def close(self, *, timeout: float | None = None) -> None:
        self.terminate()

    # -- what happens to it --------------------------------------------------------------------------------------------

    def lost(self) -> None:
        """The client finds it reset. The database may not know of it yet."""
        self._close(asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"))

    def server_ended(self) -> None:
        """The session has ended on the database's side."""
        self.way.to_client(self, self.lost)

    def _close(self, error: BaseException) -> None:
        if not self._closed:
            self._closed = True
            self.way.forget(self)
            if self._pending is not None and not self._pending.done():
                self._pending.set_exception(error)

    def _notified(self, payload: str) -> None:
        def hear() -> None:
            if not self._closed and self._listener is not None:
                self._listener(self, 0, self._channel, payload)

        self.way.to_client(self, hear)

    # -- within --------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        await self._ask(self.backend.begin)

    async def commit(self) -> None:
        await self._ask(self.backend.commit)

    async def rollback(self) -> None:
        await self._ask(self.backend.rollback)

    async def _run(self, statement: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        return await self._ask(lambda answer: self.backend.run(statement, values, answer))

    async def _ask(self, ask: Callable[[Any], None]) -> Any:
        if self._closed:
            raise asyncpg.InterfaceError("connection is closed")
        if self._pending is not None and not self._pending.done():
            raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
        pending = self._pending = asyncio.get_running_loop().create_future()

        def arrive(result: Any, error: BaseException | None) -> None:
            if not pending.done():
                if error is None:
                    pending.set_result(result)
                else:
                    pending.set_exception(error)

        def answer(result: Any, error: BaseException | None) -> None:
            if self.backend.has_committed and self.way.swallows_commit(self):
                self.way.to_client(self, self.lost)
                self.backend.close()
            else:
                self.way.to_client(self, lambda: arrive(result, error))

        self.way.to_database(self, lambda: ask(answer))
        if pending.done():
            return pending.result()
        try:
            async with asyncio.timeout(_COMMAND_S if self.way.is_simulated else None):
                return await pending
        except (asyncio.CancelledError, TimeoutError):
            self.way.to_database(self, self.backend.cancel)
            raise


class ModelTransaction:
    """asyncpg's `Transaction`."""

    def __init__(self, connection: ModelConnection) -> None:
        self._connection = connection

    async def start(self) -> None:
        await self._connection.begin()

    async def commit(self) -> None:
        await self._connection.commit()

    async def rollback(self) -> None:
        await self._connection.rollback()

    async def __aenter__(self) -> None:
        await self.start()

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            await self.commit()
        elif not self._connection.is_closed():
            await self.rollback()
