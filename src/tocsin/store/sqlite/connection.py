"""Connections to the SQLite file, with the pragmas that durability rests on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
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


def connect(
    path: Path,
    prepare: Callable[[sqlite3.Connection], object],
    *,
    read_only: bool = False,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
) -> sqlite3.Connection:
    """A connection of the driver that `prepare` has made ready; where that fails, it is closed.

    The error would keep it open: its traceback names it. It has the log open by then, and the next connection that is
    closed in this process deletes the log under all that are opened later; what these commit is gone with them.
    """
    driver = sqlite3.connect(
        file_uri(path, read_only=read_only),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=busy_timeout_s,
        cached_statements=256,
    )
    try:
        prepare(driver)
    except BaseException:
        driver.close()
        raise
    return driver


def open_connection(path: Path, *, read_only: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Connection:
    """A connection whose transactions are begun and ended by hand (`AUTOCOMMIT` to SQLAlchemy)."""

    def prepare(driver: sqlite3.Connection) -> None:
        if not read_only:
            driver.execute("PRAGMA auto_vacuum=INCREMENTAL")
            driver.execute("PRAGMA journal_mode=WAL")
            driver.execute("PRAGMA synchronous=FULL")
            # What is deleted may be secret: it is overwritten.
            driver.execute("PRAGMA secure_delete=ON")
            driver.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            driver.execute(f"PRAGMA journal_size_limit={_WAL_BYTES_KEPT}")
        driver.execute("PRAGMA temp_store=MEMORY")

    def creator() -> sqlite3.Connection:
        return connect(path, prepare, read_only=read_only, busy_timeout_s=busy_timeout_s)

    engine = create_engine("sqlite://", creator=creator, poolclass=NullPool)
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
