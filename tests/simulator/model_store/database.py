"""The database: tables, numbers of transactions, locks, and the sessions that run statements.

All of it happens at instants of the event loop. A statement runs at one instant; a commit takes effect at a later one,
and until then nobody else sees it, and its number is among those that are running. What waits for a row or a lock
is run again when that is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context, copy_context
from typing import Any, Final

import asyncpg

from tests.simulator.model_store.locks import Locks
from tests.simulator.model_store.rows import Row, Streams, Table
from tests.simulator.model_store.transactions import Transaction, Wait
from tocsin.store.postgres.places import LOGS
from tocsin.store.postgres.schema import steps

STATEMENT_S: Final = 20.0
IDLE_IN_TRANSACTION_S: Final = 10.0
"""As `store/postgres/connections.py` sets them."""
_FIRST_NUMBER: Final = 700
_PLACE: Final = ("stream", "xid", "seq")
_REGISTRATION: Final = ("owner", "provider", "token")

Answer = Callable[[Any, BaseException | None], None]
"""Takes the result of a statement, or why there is none."""


class ModelDatabase:
    """
    Args:
        clock: the database's own clock, Unix seconds.
        commit_s: how long the next commit takes; 0 is at once.
    """

    def __init__(self, clock: Callable[[], float], commit_s: Callable[[], float] | None = None) -> None:
        self.clock = clock
        self.commit_s = commit_s or _AT_ONCE
        self.context: Context = copy_context()
        """Of the database's own process: it goes on while a node stands still."""
        self.next_number = _FIRST_NUMBER
        self.active: dict[int, Backend] = {}
        """The transactions that are running and have a number."""
        self.locks = Locks(self._freed)
        self.backends: dict[int, Backend] = {}
        """The sessions, by their process numbers."""
        self.is_up = True
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
            asyncio.get_running_loop().call_later(seconds, backend.end, context=self.context)
        else:
            backend.end()

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


class Backend:
    """The database's side of a connection: its session. One statement at a time."""

    def __init__(self, database: ModelDatabase, pid: int, application: str, ended: Callable[[], None]) -> None:
        self.database = database
        self.pid = pid
        self.application = application
        self.hears: Callable[[str], None] | None = None
        """Takes what is notified, where it listens."""
        self.waits_for: list[Backend] = []
        self.is_alive = True
        self.has_committed = False
        """Whether what is answered just now is a commit that has changed something."""
        self._ended = ended
        self._transaction: Transaction | None = None
        self._committing: Transaction | None = None
        self._ends_after_commit = False
        self._running: object | None = None
        self._is_timed = False
        self._statements = 0
        self._loop = asyncio.get_running_loop()

    # -- statements ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._transaction = Transaction(self.database, self)
        self._watch_idle()

    def run(self, statement: Callable[..., Any], values: tuple[Any, ...], answer: Answer) -> None:
        """Run a statement, in the transaction that was begun, or as one that commits by itself."""
        if not self.is_alive:
            return
        self._statements += 1
        running = self._running = object()
        self._is_timed = False
        self._try(statement, values, answer, running)

    def _try(self, statement: Callable[..., Any], values: tuple[Any, ...], answer: Answer, running: object) -> None:
        if running is not self._running or not self.is_alive:
            return  # it was given up
        self.waits_for = []
        own = self._transaction is not None
        transaction = self._transaction or Transaction(self.database, self)
        try:
            if transaction.failed:
                raise asyncpg.InFailedSQLTransactionError("current transaction is aborted")
            try:
                result = transaction.run(statement, values)
            except Wait as wait:
                if not own:
                    transaction.rollback()
                self.database.wait(wait, self, lambda: self._try(statement, values, answer, running))
                if not self._is_timed:
                    self._is_timed = True
                    late = self._too_long
                    self._loop.call_later(STATEMENT_S, late, running, answer, context=self.database.context)
                return
        except BaseException as error:
            self._running = None
            transaction.failed = True
            if not own:
                transaction.rollback()
            answer(None, error)
            return
        self._running = None
        if own:
            answer(result, None)
        else:
            self._commit(transaction, result, answer)

    def commit(self, answer: Answer) -> None:
        transaction, self._transaction = self._transaction, None
        if not self.is_alive or transaction is None:
            return
        if transaction.failed:
            transaction.rollback()
            answer(None, None)
        else:
            self._commit(transaction, None, answer)

    def rollback(self, answer: Answer) -> None:
        transaction, self._transaction = self._transaction, None
        if self.is_alive and transaction is not None:
            transaction.rollback()
            answer(None, None)

    def _commit(self, transaction: Transaction, result: Any, answer: Answer) -> None:
        seconds = self.database.commit_s() if transaction.number else 0.0
        if not seconds:
            self._committed(transaction, result, answer)
            return
        self._committing = transaction
        self._loop.call_later(
            seconds, self._committed_later, transaction, result, answer, context=self.database.context
        )

    def _committed_later(self, transaction: Transaction, result: Any, answer: Answer) -> None:
        if self._committing is not transaction:
            return
        self._committing = None
        self._committed(transaction, result, answer)
        if self._ends_after_commit:
            self.end()

    def _committed(self, transaction: Transaction, result: Any, answer: Answer) -> None:
        notifications = transaction.notifications
        transaction.commit()
        self.has_committed = transaction.number > 0
        answer(result, None)
        self.has_committed = False
        if notifications:
            self.database.notify(notifications)

    def _too_long(self, running: object, answer: Answer) -> None:
        if running is self._running:
            self._running, self.waits_for = None, []
            if self._transaction is not None:
                self._transaction.failed = True
            answer(None, asyncpg.QueryCanceledError("canceling statement due to statement timeout"))

    def _watch_idle(self) -> None:
        """End a session that leaves its transaction open and asks for nothing."""
        if self.database.commit_s is _AT_ONCE:
            return
        transaction, statements = self._transaction, self._statements

        def look() -> None:
            if self._transaction is transaction and self.is_alive:
                if self._statements == statements and self._running is None:
                    self.end()
                else:
                    self._watch_idle()

        self._loop.call_later(IDLE_IN_TRANSACTION_S, look, context=self.database.context)

    # -- its end -------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """As by `pg_terminate_backend`, or because its client is gone. A commit that is on its way is not stopped."""
        if self._committing is not None:
            self._ends_after_commit = True
        elif self.is_alive:
            self._over()

    def crash(self, *, survives: Callable[[], bool]) -> None:
        committing, self._committing = self._committing, None
        if committing is not None:
            if survives():
                committing.commit()
            else:
                committing.rollback()
        if self.is_alive:
            self._over()

    def _over(self) -> None:
        self.is_alive, self._running, self.waits_for, self.hears = False, None, [], None
        self.database.backends.pop(self.pid, None)
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.rollback()
        self.database.locks.drop_all(self)
        self._ended()


def _at_once() -> float:
    return 0.0


_AT_ONCE: Final = _at_once
