"""The database: tables, numbers of transactions, locks, and the sessions that run statements.

All of it happens at instants of the event loop. A statement runs at one instant; a commit takes effect at a later one,
and until then nobody else sees it, and its number is among those that are running. What waits for a row or a lock
is run again when that is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context, copy_context
from typing import Final

import asyncpg

from tests.simulator.model_store.backend import Backend
from tests.simulator.model_store.locks import Locks
from tests.simulator.model_store.rows import Row, Streams, Table
from tests.simulator.model_store.transactions import Transaction, Wait
from tocsin.store.postgres.places import LOGS
from tocsin.store.postgres.schema import steps

_FIRST_NUMBER: Final = 700
_PLACE: Final = ("stream", "xid", "seq")
_REGISTRATION: Final = ("owner", "provider", "token")

Changed = list[tuple[Table, Row]]


class ModelDatabase:
    """
    Args:
        clock: the database's own clock, Unix seconds.
        commit_s: how long the next commit takes; 0 is at once.
    """

    def __init__(self, clock: Callable[[], float], commit_s: Callable[[], float] | None = None) -> None:
        self.clock = clock
        self.commit_s = commit_s or (lambda: 0.0)
        self.takes_time = commit_s is not None
        self.context: Context = copy_context()
        """Of the database's own process: it goes on while a node stands still."""
        self.next_number = _FIRST_NUMBER
        self.active: dict[int, Backend] = {}
        """The transactions that are running and have a number."""
        self.locks = Locks(self._freed)
        self.backends: dict[int, Backend] = {}
        """The sessions, by their process numbers."""
        self.is_up = True
        self.watchers: list[Callable[[Transaction, Changed, Changed], None]] = []
        """Are told of what each commit has made, and taken away."""
        self._sequences: dict[str, int] = {}
        self._waiting: dict[Hashable, list[Callable[[], None]]] = {}
        self._tables()
        self.partitions: dict[str, set[int]] = {"event": set(), "settlement": set(), "seen": set()}

    def _tables(self) -> None:
        self.meta = Table("meta", ["name"])
        self.node = Table("node", ["number"])
        self.log = Table("log", ["number"])
        self.low_water = Table("low_water", ["stream"])
        self.event = Streams("event", [*_PLACE, "day"], [["day"]])
        self.event_id = Table("event_id", ["id"])
        self.settlement = Table("settlement", [*_PLACE, "unit", "day"], [_PLACE, ["day"]])
        self.parked = Table("parked", ["id"], [["stream"], _PLACE, ["stream", "lane"]])
        self.woken = Table("woken", ["lane"])
        self.kept = Table("kept", _PLACE, [["id"]])
        self.device = Table("device", _REGISTRATION, [["owner"], ["token"]])
        self.topic = Table("topic", ["provider", "account", "name"])
        self.removal = Table("removal", ["id"], [["token", "provider"], ["owner"]])
        self.session = Table("session", ["hash"])
        self.api_key = Table("api_key", ["hash"])
        self.credential = Table("credential", ["provider", "account"])
        self.credential_check = Table("credential_check", ["provider", "account"])
        self.content_key = Table("content_key", ["id"])
        self.kept_key = Table("kept_key", ["name"])
        self.audit = Table("audit", ["seq"])
        self.audit_chain = Table("audit_chain", ["name"])
        self.pseudonym = Table("pseudonym", ["owner"])
        self.signal = Table("signal", ["id"])
        self.job = Table("job", ["id"])
        newest = steps()[-1]
        for name, value in {"logs": LOGS, "schema": newest.number, "oldest": newest.oldest}.items():
            self.meta.add(Row({"name": name, "value": value}))
        for number in range(LOGS):
            self.log.add(Row({"number": number, "epoch": 0, "node": None, "released": True}))
        for stream in range(2 * LOGS):
            self.low_water.add(Row({"stream": stream, "day": 0, "xid": 0, "seq": 0}))

    def next_of(self, sequence: str) -> int:
        """`nextval`: never given back."""
        self._sequences[sequence] = self._sequences.get(sequence, 0) + 1
        return self._sequences[sequence]

    # -- transactions --------------------------------------------------------------------------------------------------

    def begun(self, transaction: Transaction) -> None:
        """It changes something, and needs a number."""
        transaction.number = self.next_number
        self.next_number += 1
        self.active[transaction.number] = transaction.backend

    def is_committed(self, row: Row) -> bool:
        """Whoever has made it has ended."""
        return row.made_by not in self.active

    def ended(self, transaction: Transaction) -> None:
        if transaction.number:
            del self.active[transaction.number]
            self._freed(transaction.number)

    def wait(self, wait: Wait, backend: Backend, again: Callable[[], None]) -> None:
        """Have `again` called when what the statement waits for is free.

        Raises:
            asyncpg.DeadlockDetectedError: it would wait for itself.
        """
        backend.waits_for = wait.holders
        seen, left = set[Backend](), list(wait.holders)
        while left:
            holder = left.pop()
            if holder is backend:
                backend.waits_for = []
                raise asyncpg.DeadlockDetectedError("deadlock detected")
            if holder not in seen:
                seen.add(holder)
                left += holder.waits_for
        self._waiting.setdefault(wait.on, []).append(again)

    def _freed(self, what: Hashable) -> None:
        for again in self._waiting.pop(what, ()):
            asyncio.get_running_loop().call_soon(again, context=self.context)

    def notify(self, words: list[str]) -> None:
        for backend in list(self.backends.values()):
            if backend.hears is not None:
                for payload in words:
                    backend.hears(payload)

    def terminate(self, backend: Backend) -> None:
        """`pg_terminate_backend`: the session ends a little later."""
        if seconds := self.commit_s():
            asyncio.get_running_loop().call_later(seconds, backend.terminate, context=self.context)
        else:
            backend.terminate()

    # -- its life ------------------------------------------------------------------------------------------------------

    def open(self, application: str, ended: Callable[[], None]) -> Backend:
        """A new session. Raises CannotConnectNowError."""
        if not self.is_up:
            raise asyncpg.CannotConnectNowError("the database system is starting up")
        backend = Backend(self, self.next_of("pid"), application, ended)
        self.backends[backend.pid] = backend
        return backend

    def go_down(self, survives: Callable[[], bool]) -> None:
        """As by a crash: every session ends, and what is not committed is gone. `survives` says of each commit that is
        on its way whether it was on the disk already."""
        self.is_up = False
        for backend in list(self.backends.values()):
            backend.crash(survives=survives)

    def come_up(self) -> None:
        self.is_up = True
