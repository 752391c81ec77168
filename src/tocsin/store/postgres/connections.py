"""Connections to the database: how they are made, and a bounded number of them that jobs share.

Not the driver's own pool: that one resets a connection with a round trip at each return, and forgets who listens to the
warnings of the server, of which one means that a commit was not replicated.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
from msgspec import Struct

from tocsin.histogram import COMMIT_S, Histogram
from tocsin.store.ports import CommitUnknown, StoreUnavailable
from tocsin.store.postgres.failures import is_gone, told
from tocsin.store.postgres.hosts import Hosts

T = TypeVar("T")
Connection = Any
"""A connection of asyncpg, whose types are its own affair."""
Dial = Callable[..., Awaitable[Connection]]
"""Makes a connection: `asyncpg.connect`, or what takes its place in a simulation."""
dial: Final[Dial] = asyncpg.connect

_CONNECT_S: Final = 5.0
"""How long a connection may take to be made, where the URL names one host."""
_CONNECT_ONE_S: Final = 1.5
"""And to each of several hosts."""
_STATEMENT_S: Final = 20.0
_IDLE_IN_TRANSACTION_MS: Final = 10_000
# Through PgBouncer a connection cannot begin with them.
_LIMITS: Final = f"""SET LOCAL statement_timeout = {int(_STATEMENT_S * 1000)};
    SET LOCAL idle_in_transaction_session_timeout = {_IDLE_IN_TRANSACTION_MS}"""
_NOT_REPLICATED: Final = "the database has committed without its standby: the wait for it was cancelled"


class Target(Struct, frozen=True, kw_only=True):
    """To where connections are made."""

    url: str
    """`postgresql://user@a,b/tocsin`, with what libpq's URLs may have (`sslmode`, `sslrootcert`, …)."""
    password: str | None = None
    application: str
    """What the server calls these connections."""
    hosts: Hosts
    """Those of the URL. Shared by all connections to them, which follow each other to another host."""
    pooled: bool = False
    """Whether PgBouncer stands between, in transaction mode: no state survives a transaction."""
    dial: Dial = dial


class Watched:
    """A connection, and whether the server has warned since it was last asked.

    A wait for the synchronous standby that is cancelled ends in success with a warning: the change is durable here, and
    may be lost with this server. The severity is compared, not the text, which the server may translate.
    """

    def __init__(self, connection: Connection, *, pooled: bool = False) -> None:
        self.connection = connection
        self.pooled = pooled
        self._warned = False
        connection.add_log_listener(self._heard)

    def _heard(self, connection: Connection, message: Any) -> None:
        if getattr(message, "severity_en", None) == "WARNING" or getattr(message, "severity", None) == "WARNING":
            self._warned = True

    def begin(self) -> None:
        self._warned = False

    def refuse_unreplicated(self) -> None:
        """Raises CommitUnknown where a warning came since `begin`."""
        if self._warned:
            raise CommitUnknown(_NOT_REPLICATED)


async def connect(target: Target, *, longest_s: float | None = None) -> Watched:
    """A new connection to a server that takes writes. Raises what asyncpg raises.

    `longest_s`: so long a statement may take, and only this process ends it; by default the server does after 20 s.
    """
    settings = {"application_name": target.application}
    if not target.pooled:
        settings |= {
            "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_MS),
            "statement_timeout": str(int(_STATEMENT_S * 1000)) if longest_s is None else "0",
        }
    statement_s = _STATEMENT_S + 5.0 if longest_s is None else longest_s
    hosts = target.hosts.in_order()
    if len(hosts) < 2:
        return Watched(await _connect_to(target, settings, statement_s, _CONNECT_S), pooled=target.pooled)
    failures: list[Exception] = []
    for host, port in hosts:
        try:
            connection = await _connect_to(target, settings, statement_s, _CONNECT_ONE_S, host=host, port=port)
        except Exception as error:
            failures.append(error)
        else:
            target.hosts.prefer((host, port))
            return Watched(connection, pooled=target.pooled)
    # What is wrong with a host says more than that another one is a standby.
    raise next((one for one in failures if not isinstance(one, asyncpg.TargetServerAttributeNotMatched)), failures[0])


async def _connect_to(
    target: Target, settings: dict[str, str], statement_s: float, timeout_s: float, **host: Any
) -> Connection:
    return await target.dial(
        target.url,
        password=target.password,
        timeout=timeout_s,
        command_timeout=statement_s,
        server_settings=settings,
        target_session_attrs="read-write",
        # PgBouncer gives every transaction another server connection.
        statement_cache_size=0 if target.pooled else 200,
        **host,
    )


class Database:
    """Runs jobs on a bounded number of connections; who finds none waits."""

    def __init__(self, target: Target, most: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._target = target
        self._monotonic = monotonic
        self._free: list[Watched] = []
        self._in_use: dict[Watched, None] = {}
        """In the order in which they were taken, so that what is done to all of them always has one order."""
        self._places = asyncio.Semaphore(most)
        self._generation = 0
        self._closed = False
        self.failure: str | None = None
        """Why the last job failed that did for the database's sake; None since one has succeeded."""
        self.commits = Histogram(COMMIT_S)
        """How long what was committed took, from asking for it to the answer."""

    async def read(self, job: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a job that changes nothing. Raises StoreUnavailable."""
        async with self._connected() as watched:
            return await job(watched.connection)

    async def statement(self, job: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a job of one statement, which commits by itself.

        Raises:
            StoreUnavailable: it was not done.
            CommitUnknown: the connection was lost before its answer, or the standby has not answered.
        """
        async with self._connected(committing=True) as watched:
            watched.begin()
            began = self._monotonic()
            result = await job(watched.connection)
            watched.refuse_unreplicated()
            self.commits.observe((self._monotonic() - began,))
            return result

    async def write(self, job: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a job in one transaction. Raises as `statement` does."""
        async with self._connected() as watched:
            began = self._monotonic()
            result = await in_transaction(watched, job)
            self.commits.observe((self._monotonic() - began,))
            return result

    def renew(self) -> None:
        """Cut the connections that there are: the server that they lead to may be the wrong one. What waits for its
        answer fails at once."""
        self._generation += 1
        free, self._free = self._free, []
        for watched in [*free, *self._in_use]:
            watched.connection.terminate()

    async def close(self) -> None:
        self._closed = True
        free, self._free = self._free, []
        for watched in free:
            with contextlib.suppress(Exception):
                await watched.connection.close(timeout=2.0)

    def abandon(self) -> None:
        """As the end of the process would: nothing is ended in order."""
        self._closed = True
        self.renew()

    @contextlib.asynccontextmanager
    async def _connected(self, *, committing: bool = False) -> AsyncIterator[Watched]:
        async with self._places:
            generation, watched = self._generation, await self._take()
            keep = False
            self._in_use[watched] = None
            try:
                yield watched
                keep = True
                self.failure = None
            except CommitUnknown:
                raise
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                keep = not is_gone(error)
                raise self._noted(told(error, committing=committing)) from None
            finally:
                self._in_use.pop(watched, None)
                if keep and not self._closed and generation == self._generation and not watched.connection.is_closed():
                    self._free.append(watched)
                else:
                    watched.connection.terminate()

    async def _take(self) -> Watched:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        while self._free:
            watched = self._free.pop()
            if not watched.connection.is_closed():
                return watched
        try:
            return await connect(self._target)
        except Exception as error:
            raise self._noted(told(error)) from None

    def _noted(self, error: BaseException) -> BaseException:
        if isinstance(error, StoreUnavailable | CommitUnknown):
            self.failure = str(error)
        return error


async def in_transaction(watched: Watched, job: Callable[[Connection], Awaitable[T]]) -> T:
    """Run a job in a transaction of this connection.

    Raises:
        StoreUnavailable: it was rolled back.
        CommitUnknown: the connection was lost during the commit, or the standby has not answered.
    """
    transaction = watched.connection.transaction()
    await transaction.start()
    try:
        if watched.pooled:
            await watched.connection.execute(_LIMITS)
        result = await job(watched.connection)
    except BaseException:
        if not watched.connection.is_closed():
            with contextlib.suppress(Exception):
                await transaction.rollback()
        raise
    watched.begin()
    try:
        await transaction.commit()
    except BaseException as error:
        raise told(error, committing=True) from None
    watched.refuse_unreplicated()
    return result
