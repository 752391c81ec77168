"""Rows and tables, with the versions that transactions make of them.

A row is there for a transaction if it was made by itself or by one that has committed, and was not taken away likewise.
What a transaction takes away disappears when it commits; what it has made, when it is rolled back. So there are at most
two versions of a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final


class Row:
    """Its columns are attributes."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.__dict__.update(columns)
        self.made_by = 0
        """The transaction's number."""
        self.taken_by = 0
        """The transaction that deletes it or writes a newer version; 0 where none does."""
        self.lockers: dict[int, bool] = {}
        """The transactions that have locked it, each with whether it shares the lock with others."""


_OWN: Final = frozenset({"made_by", "taken_by", "lockers"})


def columns_of(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.__dict__.items() if name not in _OWN}


class Table:
    """All versions, found by the key and by indexes."""

    def __init__(self, name: str, key: Sequence[str], indexes: Iterable[Sequence[str]] = ()) -> None:
        self.name = name
        self.key = tuple(key)
        self._key_of: Callable[[Row], Any] = attrgetter(*key)
        self._versions: dict[Any, list[Row]] = {}
        self._indexes: dict[tuple[str, ...], dict[Any, dict[Row, None]]] = {tuple(columns): {} for columns in indexes}
        self._values: list[tuple[Callable[[Row], Any], dict[Any, dict[Row, None]]]] = [
            (attrgetter(*columns), index) for columns, index in self._indexes.items()
        ]

    def add(self, row: Row) -> None:
        self._versions.setdefault(self._key_of(row), []).append(row)
        for value_of, index in self._values:
            index.setdefault(value_of(row), {})[row] = None

    def remove(self, row: Row) -> None:
        _without(self._versions, self._key_of(row), row)
        for value_of, index in self._values:
            value = value_of(row)
            found = index[value]
            del found[row]
            if not found:
                del index[value]

    def with_key(self, key: Any) -> Sequence[Row]:
        """`key`: the value, or where the key has several columns a tuple of them."""
        return self._versions.get(key, ())

    def where(self, columns: tuple[str, ...], value: Any) -> Collection[Row]:
        return self._indexes[columns].get(value, ())

    def all(self) -> Iterator[Row]:
        for versions in self._versions.values():
            yield from versions

    def newest_first(self, above: int = 0) -> Iterator[Row]:
        """Those with greater keys, of a table whose keys are given in order."""
        for key in reversed(self._versions):
            if key <= above:
                break
            yield from self._versions[key]


class Streams(Table):
    """Events: beside the key, those of each stream in the order of transaction and number."""

    def __init__(self, name: str, key: Sequence[str], indexes: Iterable[Sequence[str]] = ()) -> None:
        super().__init__(name, key, indexes)
        self._in_order: dict[int, list[tuple[int, int, Row]]] = {}

    def add(self, row: Row) -> None:
        super().add(row)
        insort(self._in_order.setdefault(row.stream, []), (row.xid, row.seq, row))

    def remove(self, row: Row) -> None:
        super().remove(row)
        in_order = self._in_order[row.stream]
        del in_order[bisect_left(in_order, (row.xid, row.seq))]

    def after(self, stream: int, xid: int, seq: int) -> Iterator[Row]:
        """Those of a stream that follow this place."""
        in_order = self._in_order.get(stream)
        if not in_order:
            return
        for at in range(bisect_left(in_order, (xid, seq + 1)), len(in_order)):
            yield in_order[at][2]

    def backwards(self, stream: int) -> Iterator[Row]:
        for _, _, row in reversed(self._in_order.get(stream, ())):
            yield row


def _without(versions: dict[Any, list[Row]], key: Any, row: Row) -> None:
    found = versions[key]
    found.remove(row)
    if not found:
        del versions[key]


class Record(tuple[Any, ...]):
    """A row of an answer: by position, and by the names that its statement gives."""

    names: dict[str, int]

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self.names[key] if isinstance(key, str) else key)


def record(names: str) -> type[Record]:
    """The kind of record whose columns have these names, with blanks between."""
    return type("Record", (Record,), {"names": {name: at for at, name in enumerate(names.split())}})
