"""Connections to the SQLite file, with the pragmas that durability rests on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

SQLITE_NEEDED: Final = (3, 38, 0)
BUSY_TIMEOUT_S: Final = 5.0
"""How long a transaction waits for another process that writes, before it is given up."""
_CHECKPOINT_PAGES: Final = 8000
_WAL_BYTES_KEPT: Final = 64 * 1024 * 1024


def file_uri(path: Path, *, read_only: bool = False) -> str:
    """The `file:` URI of a database, its name quoted as SQLite wants it ("Uniform Resource Identifiers", 3.1).

    The path is absolute, and an empty authority stands before it: SQLite takes `//x` for the authority `x`, and a
    relative `:memory:` for no file at all.
    """
    uri = f"file://{quote(os.fsencode(path.absolute()))}"
    return f"{uri}?mode=ro" if read_only else uri


def open_connection(path: Path, *, read_only: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Connection:
    """A connection whose transactions are begun and ended by hand (`AUTOCOMMIT` to SQLAlchemy)."""

    def connect() -> sqlite3.Connection:
        driver = sqlite3.connect(
            file_uri(path, read_only=read_only),
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=busy_timeout_s,
            cached_statements=256,
        )
        if not read_only:
            driver.execute("PRAGMA auto_vacuum=INCREMENTAL")
            driver.execute("PRAGMA journal_mode=WAL")
            driver.execute("PRAGMA synchronous=FULL")
            # What is deleted may be secret: it is overwritten.
            driver.execute("PRAGMA secure_delete=ON")
            driver.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            driver.execute(f"PRAGMA journal_size_limit={_WAL_BYTES_KEPT}")
        driver.execute("PRAGMA temp_store=MEMORY")
        return driver

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def raw(connection: Connection) -> sqlite3.Connection:
    """The driver's connection, for the hand-written statements of the hot path."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


@contextmanager
def one_instant(driver: sqlite3.Connection) -> Iterator[None]:
    """On a connection that reads: what is read within is as it was at one instant, such as a content and its key."""
    driver.execute("BEGIN")
    try:
        yield
    finally:
        if driver.in_transaction:
            driver.execute("ROLLBACK")


def close(connection: Connection) -> None:
    connection.close()
    connection.engine.dispose()


def data_version(driver: sqlite3.Connection) -> int:
    """A number that changes when another connection has changed the file."""
    version: int
    (version,) = driver.execute("PRAGMA data_version").fetchone()
    return version
