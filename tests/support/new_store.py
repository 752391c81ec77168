"""A new store on SQLite with its schema: to migrate an empty file takes longer than most tests do."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tocsin.store.sqlite.connection import close, open_connection, raw
from tocsin.store.sqlite.migrations import migrate


def lay_out(path: Path) -> None:
    """Make a store at `path`, where nothing is, as the migrations leave it: nobody has opened it yet.

    Where it cannot be made, tocsin is left to say so.
    """
    if os.path.lexists(path):
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(_content())


@lru_cache(1)
def _content() -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "tocsin.db"
        connection = open_connection(path)
        driver = raw(connection)
        driver.execute("BEGIN IMMEDIATE")
        migrate(connection)
        driver.execute("COMMIT")
        close(connection)
        return path.read_bytes()
