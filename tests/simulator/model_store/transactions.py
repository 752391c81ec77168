"""Transactions: what a statement sees, changes and locks; and what it has to wait for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.simulator.model_store.locks import Lock
from tests.simulator.model_store.rows import Row, Table, columns_of

if TYPE_CHECKING:
    from tests.simulator.model_store.backend import Backend
    from tests.simulator.model_store.database import ModelDatabase


class Wait(Exception):  # noqa: N818 (it says what is so)
    """The statement cannot go on before somebody else has ended: it is run again then."""

    def __init__(self, on: Hashable, holders: Iterable[Backend]) -> None:
        super().__init__(on)
        self.on = on
        """A transaction's number, or a lock."""
        self.holders = list(holders)


class Transaction:
    """READ COMMITTED: each statement runs at one instant, and sees what is committed then."""

    def __init__(self, database: ModelDatabase, backend: Backend) -> None:
        self.database = database
        self.backend = backend
        self.number = 0
        """Given with the first change (`pg_current_xact_id()`)."""
        self.failed = False
        self.notifications: list[str] = []
        self._made: list[tuple[Table, Row]] = []
        self._taken: list[tuple[Table, Row]] = []
        self._undo: list[Callable[[], None]] = []
        self._locks: list[Lock] = []

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self, statement: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        """Run a statement; where it fails, or has to wait, nothing is left of it."""
        mark, told = len(self._undo), len(self.notifications)
        made, taken = len(self._made), len(self._taken)
        try:
            return statement(self, *values)
        except BaseException:
            self._undo_since(mark)
            del self._made[made:]
            del self._taken[taken:]
            del self.notifications[told:]
            raise

    def commit(self) -> None:
        made, taken = self._made[:], self._taken[:]
        for table, row in taken:
            table.remove(row)
        if made or taken:
            for watch in self.database.watchers:
                watch(self, made, taken)
        self._end()

    def rollback(self) -> None:
        self._undo_since(0)
        self._end()

    def _end(self) -> None:
        self._undo.clear()
        self._made.clear()
        self._taken.clear()
        locks, self._locks = self._locks, []
        for lock in locks:
            self.database.locks.drop(lock)
        self.database.ended(self)

    def _undo_since(self, mark: int) -> None:
        while len(self._undo) > mark:
            self._undo.pop()()

    # -- what it sees --------------------------------------------------------------------------------------------------

    def sees(self, row: Row) -> bool:
        active, own = self.database.active, self.number
        if row.made_by in active and row.made_by != own:
            return False
        return not row.taken_by or (row.taken_by in active and row.taken_by != own)

    def all(self, table: Table) -> Iterator[Row]:
        return filter(self.sees, table.all())

    def get(self, table: Table, key: Any) -> Row | None:
        for row in table.with_key(key):
            if self.sees(row):
                return row
        return None

    def where(self, table: Table, columns: tuple[str, ...], value: Any) -> list[Row]:
        return [row for row in table.where(columns, value) if self.sees(row)]

    def oldest_running(self) -> int:
        """`pg_snapshot_xmin(pg_current_snapshot())`"""
        return min(self.database.active, default=self.database.next_number)

    # -- what it changes -----------------------------------------------------------------------------------------------

    def numbered(self) -> int:
        """`pg_current_xact_id()`"""
        if not self.number:
            self.database.begun(self)
        return self.number

    def insert(self, table: Table, /, **columns: Any) -> Row:
        """Raises UniqueViolationError; Wait, where another transaction has inserted or deleted the same key."""
        row = Row(columns)
        key = tuple([columns[name] for name in table.key])
        for other in table.with_key(key if len(key) > 1 else key[0]):
            self._wait_for_writers(other)
            if self.sees(other):
                raise asyncpg.UniqueViolationError(f"duplicate key value violates unique constraint of {table.name}")
        row.made_by = self.numbered()
        table.add(row)
        self._made.append((table, row))
        self._undo.append(lambda: table.remove(row))
        return row

    def put(self, table: Table, key: Any, columns: dict[str, Any], changes: dict[str, Any] | None) -> bool:
        """INSERT … ON CONFLICT DO UPDATE with `changes`, or DO NOTHING where they are None; whether it has inserted."""
        for other in table.with_key(key):
            self._wait_for_writers(other)
            if self.sees(other):
                if changes is not None:
                    self.update(table, other, **changes)
                return False
        self.insert(table, **columns)
        return True

    def update(self, table: Table, row: Row, /, **changes: Any) -> Row:
        """Raises Wait."""
        self.lock(row, takes=False)
        newer = Row({**columns_of(row), **changes})
        newer.made_by = self.numbered()
        newer.lockers = dict(row.lockers)
        self._take(table, row)
        table.add(newer)
        self._undo.append(lambda: table.remove(newer))
        return newer

    def delete(self, table: Table, row: Row) -> None:
        """Raises Wait."""
        self.lock(row, takes=False)
        for other in row.lockers:
            if other != self.number and other in self.database.active:
                raise self._wait(other)
        self._take(table, row)

    def lock(self, row: Row, *, shared: bool = False, takes: bool = True) -> None:
        """FOR UPDATE, or FOR KEY SHARE. Raises Wait."""
        self._wait_for_writers(row, made=False)
        for other, is_shared in row.lockers.items():
            if other != self.number and other in self.database.active and not (shared and is_shared):
                if not takes and is_shared:
                    continue  # an update that leaves the key alone
                raise self._wait(other)
        if takes:
            number, before = self.numbered(), row.lockers.get(self.numbered())
            row.lockers[number] = shared if before is None else shared and before
            if before is None:
                self._undo.append(lambda: row.lockers.pop(number, None))

    def _take(self, table: Table, row: Row) -> None:
        row.taken_by = self.numbered()
        self._taken.append((table, row))

        def give_back() -> None:
            row.taken_by = 0

        self._undo.append(give_back)

    def _wait_for_writers(self, row: Row, *, made: bool = True) -> None:
        for other in (row.made_by if made else 0, row.taken_by):
            if other and other != self.number and other in self.database.active:
                raise self._wait(other)

    def _wait(self, number: int) -> Wait:
        return Wait(number, [self.database.active[number]])

    # -- advisory locks ------------------------------------------------------------------------------------------------

    def advisory(self, space: int, key: int, *, shared: bool = False, session: bool = False) -> None:
        """Raises Wait."""
        holders = self.database.locks.holders(self.backend, (space, key), shared=shared)
        if holders:
            raise Wait((space, key), holders)
        self._locked((space, key), shared=shared, session=session)

    def try_advisory(self, space: int, key: int, *, session: bool = False) -> bool:
        if self.database.locks.holders(self.backend, (space, key), shared=False):
            return False
        self._locked((space, key), shared=False, session=session)
        return True

    def _locked(self, key: tuple[int, int], *, shared: bool, session: bool) -> None:
        lock = self.database.locks.take(self.backend, key, shared=shared, session=session)
        if not session:
            self._locks.append(lock)
