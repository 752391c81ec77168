"""Every port on one SQLite file, and the noticing of what other processes change in it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct

from tocsin.domain.nodes import NodeStatus
from tocsin.store.audit_chain import MAIN
from tocsin.store.clock import ClockWatch
from tocsin.store.master_keys import KeySource
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Replica, Retention, Signal
from tocsin.store.sealer import Sealer, say_in_log
from tocsin.store.sqlite.access import SqliteAccess
from tocsin.store.sqlite.audit import SqliteAudit
from tocsin.store.sqlite.backlog import FileBacklog
from tocsin.store.sqlite.claims import FileClaims
from tocsin.store.sqlite.connection import data_version
from tocsin.store.sqlite.contents import Contents
from tocsin.store.sqlite.credentials import SqliteCredentials
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.event_log import SqliteEventLog
from tocsin.store.sqlite.failures import explained
from tocsin.store.sqlite.housekeeping import Housekeeping
from tocsin.store.sqlite.jobs import SqliteJobs
from tocsin.store.sqlite.leases import FileLeases
from tocsin.store.sqlite.overview import Overview, look
from tocsin.store.sqlite.positions import SqlitePositions
from tocsin.store.sqlite.pseudonyms import SqlitePseudonyms
from tocsin.store.sqlite.queue import SqliteQueue
from tocsin.store.sqlite.registry import SqliteRegistry
from tocsin.store.sqlite.retiring import Retiring
from tocsin.store.sqlite.schedule import SqliteSchedule
from tocsin.store.sqlite.search import SqliteSearch
from tocsin.store.sqlite.search_feed import Recent
from tocsin.store.sqlite.signals import SqliteSignals
from tocsin.store.sqlite.users import SqliteUsers
from tocsin.store.sqlite.worker import StartWorker, ThreadWorker

log = structlog.get_logger(__name__)

_NOTICE_EVERY_S: Final = 0.5
_PRUNE_FOR_S: Final = 1.0


class SqliteOptions(Struct, frozen=True, kw_only=True):
    """Bounds, and what comes from outside: clocks (seconds), randomness, and where jobs run."""

    max_events: int
    max_bytes: int
    lease_s: float
    keys: KeySource | None = None
    """Where the master keys come from; without it from a file beside the store."""
    say: Callable[[str], None] = say_in_log
    """Is told, for a person, what opening the store has done for the first time."""
    chain: str = MAIN
    """The name of the audit log's chain that this node extends."""
    search: bool = False
    """Whether there is an index of what was delivered, to be searched."""
    wall_clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    random: random.Random = random.SystemRandom()
    start_worker: StartWorker = ThreadWorker


class SqliteStore:
    """See `ports.Store`. Made by `opening.open_store`."""

    def __init__(
        self,
        path: Path,
        database: Database,
        options: SqliteOptions,
        sealer: Sealer,
        *,
        version: int,
        server: bool,
        held: ExitStack,
    ) -> None:
        self.path = path
        self.database = database
        self.commits = database.commits
        self._version = version
        self._held = held
        self._wall_clock = options.wall_clock
        self._monotonic = options.monotonic
        clocks = {"wall_clock": options.wall_clock, "monotonic": options.monotonic}
        claims = FileClaims(database, FileLeases(options.lease_s, options.monotonic), ClockWatch(**clocks))
        backlog = FileBacklog(database, options.max_events, options.max_bytes, options.monotonic)
        self.pseudonyms = SqlitePseudonyms(database, sealer, options.random.randbytes)
        self.audit = SqliteAudit(
            database, chain=options.chain, wall_clock=options.wall_clock, pseudonym=self.pseudonyms.within
        )
        recent = Recent() if options.search else None
        self.signals = SqliteSignals(options.wall_clock, server=server)
        contents = Contents(sealer, options.random.randbytes, wall_clock=options.wall_clock)
        self.schedule = SqliteSchedule(database, claims, self.signals, contents, wall_clock=options.wall_clock)
        self.queue = SqliteQueue(
            database,
            claims,
            self.schedule,
            backlog,
            contents,
            recent=recent,
            wall_clock=options.wall_clock,
        )
        self.log = SqliteEventLog(
            database,
            self.queue.refresh,
            self.audit,
            contents,
            feeds_search=options.search,
            wall_clock=options.wall_clock,
        )
        self.search = SqliteSearch(path, database, recent, server=server, start_worker=options.start_worker, **clocks)
        self.registry = SqliteRegistry(
            database, self.signals, self.audit, wall_clock=options.wall_clock, random=options.random
        )
        self.access = SqliteAccess(database, self.signals, self.audit, wall_clock=options.wall_clock)
        self.credentials = SqliteCredentials(database, self.signals, self.audit, sealer)
        self.users = SqliteUsers(
            path,
            database,
            self.signals,
            self.audit,
            self.queue.refresh,
            self._forget,
            wall_clock=options.wall_clock,
            random=options.random,
        )
        self.jobs = SqliteJobs(database, self.audit, wall_clock=options.wall_clock, random=options.random)
        self.positions = SqlitePositions(database)
        self._housekeeping = Housekeeping(database, **clocks)
        self._retiring = Retiring(database, contents, wall_clock=options.wall_clock)
        self._noticing: asyncio.Task[None] | None = None
        self._status: NodeStatus | None = None

    def now_ms(self) -> int:
        return int(self._wall_clock() * 1000)

    async def start(self) -> None:
        with explained(self.path):
            await self.database.write(self.signals.start)
            await self.queue.start()
            await self.jobs.start()
            await self.search.start()
        self._noticing = asyncio.create_task(self._keep_noticing(), name="noticing other processes")

    def failures(self) -> list[str]:
        database, found = self.database, []
        if database.write_failure is not None:
            found.append(f"the store cannot write: {database.write_failure}")
        if database.read_failure is not None:
            found.append(f"the store cannot read: {database.read_failure}")
        return found

    async def size_bytes(self) -> int:
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return await self.database.read(lambda _: sum(file.stat().st_size for file in files if file.exists()))

    async def replicas(self) -> list[Replica]:
        """None: nothing follows a file."""
        return []

    async def prune(self, retention: Retention, *, for_s: float = _PRUNE_FOR_S) -> bool:
        until = self._monotonic() + for_s
        more = await self._housekeeping.prune(retention, for_s=for_s)
        await self.search.prune()
        return await self._retiring.work(lambda: self._monotonic() >= until) or more

    async def publish(self, status: NodeStatus) -> None:
        """There is one node: it asks itself."""
        self._status = status

    async def nodes(self) -> list[NodeStatus]:
        return [] if self._status is None else [self._status]

    async def close(self) -> None:
        if self._noticing is not None:
            self._noticing.cancel()
            await asyncio.gather(self._noticing, return_exceptions=True)
        await self.search.close()
        await self.database.close()
        self._held.close()

    async def notice_changes(self) -> bool:
        """Whether another process has changed the file since the last call; what was remembered is then forgotten.

        Where the store could not write, this is also when it tries again.

        Raises:
            StoreUnavailable: the store cannot write.
        """
        await self.database.probe()
        before = self._version

        def see(driver: sqlite3.Connection) -> tuple[int, Overview | None, list[Signal], int]:
            version = data_version(driver)
            if version == before:
                return version, None, [], 0
            return version, look(driver), *self.signals.read(driver)

        self._version, overview, signals, seen = await self.database.write(see)
        if overview is None:
            return False
        self._forget()
        self.signals.received(signals, seen)
        await self.queue.refresh(overview)
        return True

    def _forget(self) -> None:
        """The file was changed: what is remembered of it may not hold any more."""
        self.access.forget()
        self.credentials.forget()
        self.registry.forget()

    async def _keep_noticing(self) -> None:
        """SQLite tells nobody of a change: it is asked."""
        while True:
            await asyncio.sleep(_NOTICE_EVERY_S)
            try:
                with contextlib.suppress(StoreUnavailable):
                    await self.notice_changes()
            except Exception:
                log.exception("looking for changes of other processes failed; trying again")
