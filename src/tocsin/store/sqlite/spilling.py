"""Has SQLite sort, and write the file anew, in files beside the store where it would take memory otherwise.

Migrations sort all devices, and `VACUUM` makes a second copy of everything: neither may need as much memory as the
store is large. SQLite's usual places for such files are of no use: in a container all but the store's directory may be
read-only, and `/tmp` may be memory.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_ONE_AT_A_TIME: Final = threading.Lock()
"""SQLite keeps one name of a directory for the whole process."""


@contextmanager
def spills_beside(driver: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Meanwhile `driver`, which is in no transaction, has its temporary files in the directory of the store at `path`.

    SQLite removes their names as soon as it has made them ("Temporary Files Used By SQLite"): nothing is left of them
    after a crash. Where the disk is full, the statement fails (`SQLITE_FULL`).
    """
    with _ONE_AT_A_TIME:
        # Beside the log: a symbolic link may be on another disk.
        _set_directory(driver, os.path.dirname(os.path.realpath(path)))
        driver.execute("PRAGMA temp_store=FILE")
        try:
            yield
        finally:
            # Both are refused within a transaction, which a failure may have left open.
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            driver.execute("PRAGMA temp_store=MEMORY")
            _set_directory(driver, "")


def _set_directory(driver: sqlite3.Connection, directory: str) -> None:
    """Where SQLite was built without this (deprecated) pragma, or does not take the directory (its name is no UTF-8, or
    nothing can be made in it), SQLite chooses the place itself."""
    with suppress(sqlite3.OperationalError, UnicodeEncodeError):
        name = directory.encode().decode().replace("'", "''")
        driver.execute(f"PRAGMA temp_store_directory='{name}'")
