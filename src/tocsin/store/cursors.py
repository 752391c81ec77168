"""Pages begin at a row's number."""

from __future__ import annotations

from typing import Final

from tocsin.store.ports import UnknownCursor
from tocsin.store.records import Cursor

NEWEST: Final = 2**62
"""Above the number of every row: the first page, of those that begin with the newest."""
_LARGEST: Final = 2**63 - 1
"""Of the numbers of SQLite."""
_MOST_DIGITS: Final = 19


def number_of(cursor: Cursor) -> int:
    """Raises UnknownCursor: it is none of this store's."""
    # No digits but these; and no more of them than `int` reads quickly.
    number = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) <= _MOST_DIGITS else _LARGEST + 1
    if number > _LARGEST:
        raise UnknownCursor("not a valid cursor: use the `next` value of the page before")
    return number
