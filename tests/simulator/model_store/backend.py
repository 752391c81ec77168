"""The database's side of a connection: its session. What it is asked for it does one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from tests.simulator.model_store.transactions import Transaction, Wait

if TYPE_CHECKING:
    from tests.simulator.model_store.database import ModelDatabase

STATEMENT_S: Final = 20.0
IDLE_IN_TRANSACTION_S: Final = 10.0
"""As `store/postgres/connections.py` sets them."""

Answer = Callable[[Any, BaseException | None], None]
"""Takes the result of what was asked for, or why there is none."""


class Backend:
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
        self._asked: deque[tuple[Callable[[Answer], None], Answer]] = deque()
        self._done = 0
        self._busy: object | None = None
        """What it does at present."""
        self._gives_up: Callable[[BaseException], None] | None = None
        """Ends a statement that waits for somebody else."""
        self._transaction: Transaction | None = None
        self._committing: Transaction | None = None
        self._ends_afterwards = False
        self._loop = asyncio.get_running_loop()

    # -- what it is asked for ------------------------------------------------------------------------------------------

    def begin(self, answer: Answer) -> None:
        self._ask(self._begin, answer)

    def run(self, statement: Callable[..., Any], values: tuple[Any, ...], answer: Answer) -> None:
        """Run a statement, in the transaction that was begun, or as one that commits by itself."""
        self._ask(lambda done: self._run(statement, values, done), answer)

    def commit(self, answer: Answer) -> None:
        self._ask(self._end_transaction, answer)

    def rollback(self, answer: Answer) -> None:
        self._ask(lambda done: self._end_transaction(done, gives_up=True), answer)

    def cancel(self) -> None:
        """As by `pg_cancel_backend`: a statement that waits is given up."""
        if self._gives_up is not None:
            self._gives_up(asyncpg.QueryCanceledError("canceling statement due to user request"))

    def _ask(self, job: Callable[[Answer], None], answer: Answer) -> None:
        if self.is_alive:
            self._asked.append((job, answer))
            if self._busy is None:
                self._next()

    def _next(self) -> None:
        if not self._asked or not self.is_alive:
            return
        job, answer = self._asked.popleft()
        busy = self._busy = object()

        def done(result: Any, error: BaseException | None) -> None:
            if self._busy is not busy:
                return
            self._busy = None
            self._done += 1
            answer(result, error)
            self.has_committed = False
            if self._ends_afterwards:
                self._over()
            self._next()

        job(done)

    # -- transactions --------------------------------------------------------------------------------------------------

    def _begin(self, done: Answer) -> None:
        self._transaction = Transaction(self.database, self)
        if self.database.takes_time:
            self._watch_idle(self._transaction, self._done)
        done(None, None)

    def _run(self, statement: Callable[..., Any], values: tuple[Any, ...], done: Answer) -> None:
        own = self._transaction
        transaction = own or Transaction(self.database, self)
        try:
            if transaction.failed:
                raise asyncpg.InFailedSQLTransactionError("current transaction is aborted")
            try:
                result = transaction.run(statement, values)
            except Wait as wait:
                if own is None:
                    transaction.rollback()
                self._wait(wait, lambda: self._run(statement, values, done), done)
                return
        except BaseException as error:
            if own is None:
                transaction.rollback()
            transaction.failed = True
            done(None, error)
            return
        if own is None:
            self._commit(transaction, result, done)
        else:
            done(result, None)

    def _wait(self, wait: Wait, again: Callable[[], None], done: Answer) -> None:
        busy = self._busy

        def go_on() -> None:
            if self._busy is busy and self._gives_up is give_up:
                self._gives_up, self.waits_for = None, []
                again()

        def give_up(error: BaseException) -> None:
            if self._busy is busy and self._gives_up is give_up:
                self._gives_up, self.waits_for = None, []
                if self._transaction is not None:
                    self._transaction.failed = True
                done(None, error)

        self._gives_up = give_up
        self.database.wait(wait, self, go_on)
        if self.database.takes_time:
            late = asyncpg.QueryCanceledError("canceling statement due to statement timeout")
            self._loop.call_later(STATEMENT_S, give_up, late, context=self.database.context)

    def _end_transaction(self, done: Answer, *, gives_up: bool = False) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is None or transaction.failed or gives_up:
            if transaction is not None:
                transaction.rollback()
            done(None, None)
        else:
            self._commit(transaction, None, done)

    def _commit(self, transaction: Transaction, result: Any, done: Answer) -> None:
        seconds = self.database.commit_s() if transaction.number else 0.0

        def committed() -> None:
            if self._committing is transaction:
                self._committing = None
                transaction.commit()
                self.has_committed = transaction.number > 0
                done(result, None)
                self.database.notify(transaction.notifications)

        self._committing = transaction
        if seconds:
            self._loop.call_later(seconds, committed, context=self.database.context)
        else:
            committed()

    def _watch_idle(self, transaction: Transaction, done: int) -> None:
        """End a session that leaves its transaction open and asks for nothing."""

        def look() -> None:
            if self._transaction is transaction and self.is_alive:
                if self._done == done and self._busy is None:
                    self._over()
                else:
                    self._watch_idle(transaction, self._done)

        self._loop.call_later(IDLE_IN_TRANSACTION_S, look, context=self.database.context)

    # -- its end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Its client is gone. What it does at present it does to the end, and knows of that only then."""
        self._asked.clear()
        if self._busy is not None:
            self._ends_afterwards = True
        elif self.is_alive:
            self._over()

    def terminate(self) -> None:
        """As by `pg_terminate_backend`. A commit that is on its way is not stopped."""
        self._asked.clear()
        if self._committing is not None:
            self._ends_afterwards = True
        elif self.is_alive:
            self._over()

    def crash(self, *, survives: Callable[[], bool]) -> None:
        """With the whole database. `survives`: whether a commit that is on its way was on the disk already."""
        committing, self._committing = self._committing, None
        if committing is not None:
            if survives():
                committing.commit()
            else:
                committing.rollback()
        if self.is_alive:
            self._over()

    def _over(self) -> None:
        self.is_alive, self._busy, self._gives_up, self.waits_for, self.hears = False, None, None, [], None
        self._asked.clear()
        self.database.backends.pop(self.pid, None)
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.rollback()
        self.database.locks.drop_all(self)
        self._ended()
