"""Encrypts what an older version has stored of contents in clear, when a server first opens the store.

It goes in steps, each a transaction: after a power cut it goes on where it was. Pages that are free, or have free room,
may have contents of long ago, for older versions did not overwrite them: so the file is written anew in the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from tocsin.domain.events import EventId
from tocsin.store.sqlite.contents import Contents

_STEP_ROWS: Final = 2000
_REACHED: Final = "SELECT number FROM housekeeping WHERE name = 'in_clear'"
_NOTE: Final = "UPDATE housekeeping SET number = ? WHERE name = 'in_clear'"
_DONE: Final = "DELETE FROM housekeeping WHERE name = 'in_clear'"
_LAST_OF_STEP: Final = "SELECT max(seq) FROM (SELECT seq FROM event WHERE seq > ? ORDER BY seq LIMIT ?)"
_ENCRYPT: Final = """UPDATE event SET digest = keyed_digest(digest, CAST(body AS BLOB)),
    body = encrypted(id, CAST(body AS BLOB)), content_key_id = iif(body IS NULL, NULL, ?)
    WHERE seq > ? AND seq <= ? AND content_key_id IS NULL AND (typeof(digest) = 'text' OR body IS NOT NULL)"""


def encrypt_rest(driver: sqlite3.Connection, contents: Contents, say: Callable[[str], None]) -> None:
    """Nobody else opens the store meanwhile; `secure_delete` is on. `say` is told, for a person, what was done.

    Raises:
        StoreError: the master key is missing.
        sqlite3.Error: the storage fails; the next opening goes on.
    """
    row = driver.execute(_REACHED).fetchone()
    if row is None:
        return
    reached, encrypted = row[0], 0
    while (last := driver.execute(_LAST_OF_STEP, (reached, _STEP_ROWS)).fetchone()[0]) is not None:
        driver.execute("BEGIN IMMEDIATE")
        encrypted += _step(driver, contents, reached, last)
        driver.execute(_NOTE, (last,))
        driver.execute("COMMIT")
        reached = last
    if not _write_anew(driver, say):
        return
    driver.execute(_DONE)
    say(f"{encrypted} messages in the store were encrypted; copies of the store from before have them in clear")


def _step(driver: sqlite3.Connection, contents: Contents, after: int, last: int) -> int:
    digests, key = contents.digests(driver, writes=True), contents.current(driver)

    def keyed_digest(digest: str | bytes | None, body: bytes | None) -> bytes | None:
        if isinstance(digest, str):
            return digests.of_unkeyed(digest)
        return digests.of([body])[0] if digest is None and body is not None else digest

    def encrypted(id: str, body: bytes | None) -> bytes | None:
        return None if body is None else key.seal_one(EventId(id), body, contents.random)

    driver.create_function("keyed_digest", 2, keyed_digest)
    driver.create_function("encrypted", 2, encrypted)
    try:
        return driver.execute(_ENCRYPT, (key.id, after, last)).rowcount
    finally:
        driver.create_function("keyed_digest", 2, None)
        driver.create_function("encrypted", 2, None)


def _write_anew(driver: sqlite3.Connection, say: Callable[[str], None]) -> bool:
    """Whether there was room for it."""
    try:
        driver.execute("VACUUM")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise
        say(
            "messages of long ago may still be in free room of the store's file: there is no room on the disk to write"
            " it anew; make as much room as the file takes, and start again"
        )
        return False
    # The log has the pages as they were before.
    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return True
