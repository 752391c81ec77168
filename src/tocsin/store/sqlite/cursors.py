"""Pages begin at a row's number."""

from __future__ import annotations

from tocsin.store.ports import UnknownCursor
from tocsin.store.records import Cursor


def number_of(cursor: Cursor) -> int:
    """Raises UnknownCursor: it is none of this store's."""
    # No number of SQLite's is longer, and no digits but these are taken for one by `int`.
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise UnknownCursor("not a place where a page begins")
    return int(cursor)
