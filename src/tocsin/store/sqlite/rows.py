"""Many rows in one statement, in a few sizes of statement that stay prepared.

Why not `executemany`: see `database.py`. A statement of N rows is one step for SQLite, taken without the GIL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

SIZES: Final = (256, 64, 16, 4, 1)


@lru_cache(maxsize=256)
def _statement(template: str, columns: int, count: int) -> str:
    row = f"({','.join('?' * columns)})"
    return template.format(rows=",".join([row] * count))


def execute(driver: sqlite3.Connection, template: str, rows: Sequence[Sequence[Any]], *after: Any) -> int:
    """Run `template`, whose `{rows}` stands for the list after VALUES, over all `rows`. `after` has the values of the
    parameters that come after the list. Returns how many rows of the table it has changed."""
    # Not the cursor's own count, which sqlite3 does not keep of a statement that begins with WITH.
    start, total, before = 0, len(rows), driver.total_changes
    for size in SIZES:
        while total - start >= size:
            values: list[Any] = []
            for row in rows[start : start + size]:
                values += row
            values += after
            driver.execute(_statement(template, len(rows[start]), size), values)
            start += size
    return driver.total_changes - before


def execute_flat(driver: sqlite3.Connection, template: str, columns: int, values: Sequence[Any]) -> None:
    """The same, where the values of all rows stand one behind the other, `columns` for each row."""
    start, total = 0, len(values)
    for size in SIZES:
        step = size * columns
        while total - start >= step:
            driver.execute(_statement(template, columns, size), values[start : start + step])
            start += step


def fetch_json(driver: sqlite3.Connection, template: str, keys: Sequence[str | int]) -> Iterable[str]:
    """Run `template` over `keys` and yield the one JSON text that each statement returns."""
    start, total = 0, len(keys)
    for size in SIZES:
        while total - start >= size:
            statement = _statement(template, 1, size)
            (text,) = driver.execute(statement, keys[start : start + size]).fetchone()
            yield text
            start += size
