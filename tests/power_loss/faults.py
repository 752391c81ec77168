"""Faults that are put into tocsin. Each breaks a promise after a power cut, and the checker has to find every one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from tocsin.domain.events import Event
from tocsin.store.sqlite import maintenance
from tocsin.store.sqlite.queue import SqliteQueue
from tocsin.store.sqlite.transactions import Writes
from tocsin.store.sqlite.worker import Job

Execute = Callable[[str], Any]
"""Runs one statement."""


class Fault(Struct, frozen=True):
    stories: tuple[str, ...]
    """Those in which it shows."""
    put: Callable[[], None]


def put(name: str) -> None:
    FAULTS[name].put()


def _every_statement(change: Callable[[str, Execute], str]) -> None:
    """Have `change` see every statement of every connection, and say what is executed in its place."""

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            return super().execute(change(sql, super().execute), *arguments)

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any) -> sqlite3.Cursor:
            return super().cursor(Cursor)

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            return self.cursor().execute(sql, *arguments)

    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **named: connect(*arguments, factory=Connection, **named)  # type: ignore


def _synchronous(level: str) -> None:
    _every_statement(lambda sql, _: sql.replace("synchronous=FULL", f"synchronous={level}"))


def _answer_before_commit() -> None:
    """Each job is answered as soon as it has run. The commit, and its sync, come when all have run."""
    run_one, answer = Writes._run_one, Job.answer

    def run_and_answer(self: Writes, driver: sqlite3.Connection, job: Job, *, alone: bool) -> None:
        run_one(self, driver, job, alone=alone)
        loop, heard = job.future.get_loop(), threading.Event()

        def tell() -> None:
            job.answer()
            # Whoever waits for it goes on in the turns after this one.
            loop.call_soon(loop.call_soon, heard.set)

        loop.call_soon_threadsafe(tell)
        heard.wait(1)

    def answer_once(self: Job) -> None:
        if not self.future.done():
            answer(self)

    Writes._run_one = run_and_answer  # type: ignore[method-assign]
    Job.answer = answer_once  # type: ignore[method-assign]


def _no_directory_sync() -> None:
    make_durable = maintenance.make_durable

    def only_files(path: Path) -> None:
        if not path.is_dir():
            make_durable(path)

    maintenance.make_durable = only_files


def _migrate_in_two_commits() -> None:
    """What a migration has changed is committed before the number of the schema."""

    def change(sql: str, execute: Execute) -> str:
        if sql.startswith("UPDATE alembic_version"):
            execute("COMMIT")
            execute("BEGIN IMMEDIATE")
        return sql

    _every_statement(change)


def _audit_in_a_commit_of_its_own() -> None:
    """What was changed is committed before its entry."""

    def change(sql: str, execute: Execute) -> str:
        if sql.startswith("INSERT INTO audit("):
            execute("COMMIT")
            execute("BEGIN IMMEDIATE")
        return sql

    _every_statement(change)


def _leave_refused_commit() -> None:
    """A commit whose sync failed, and which was refused, stays in the log."""
    Writes._overwrite_refused_commit = lambda self, driver: None  # type: ignore[method-assign]


def _mix_up_contents() -> None:
    """The events of a batch are taken with each other's contents."""
    append = SqliteQueue.append

    async def mix_up(self: SqliteQueue, events: Sequence[Event]) -> None:
        others = reversed([event.body for event in events])
        await append(self, [replace(event, body=body) for event, body in zip(events, others, strict=True)])

    SqliteQueue.append = mix_up  # type: ignore[method-assign, assignment]


FAULTS: Final = {
    "synchronous=NORMAL": Fault(("queue",), lambda: _synchronous("NORMAL")),
    "synchronous=OFF": Fault(("queue",), lambda: _synchronous("OFF")),
    "a commit is answered before it is made": Fault(("queue", "registry"), _answer_before_commit),
    "a restore does not sync the directory": Fault(("restore",), _no_directory_sync),
    "a refused commit is left in the log": Fault(("failed-sync",), _leave_refused_commit),
    "an audit entry is a commit of its own": Fault(("registry",), _audit_in_a_commit_of_its_own),
    "contents are mixed up": Fault(("second-cut",), _mix_up_contents),
    "a migration is two commits": Fault(("migration-0004",), _migrate_in_two_commits),
}
