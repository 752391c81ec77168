"""Checks a store and copies it, while a server may be running on it. Neither changes anything in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from tocsin.store.migrations import head
from tocsin.store.opening import StoreError
from tocsin.store.sqlite.faults import os_sentence, sentence

_MOST_FINDINGS: Final = 20
_BUSY_TIMEOUT_S: Final = 5.0

# What must hold between the tables: a sentence about one row, and the query that finds them.
_RULES: Final = (
    (
        "event {} counts other deliveries as waiting than are parked for it",
        "SELECT id FROM event WHERE waiting != (SELECT count(*) FROM parked WHERE parked.seq = event.seq)",
    ),
    ("parked delivery {} has no event", "SELECT id FROM parked WHERE seq NOT IN (SELECT seq FROM event)"),
    (
        "event {} waits for deliveries and is not in the state that says so, or the reverse",
        "SELECT id FROM event WHERE (waiting > 0) != (state = 1)",
    ),
    ("event {} is in a state that does not exist", "SELECT id FROM event WHERE state NOT IN (0, 1, 2, 3)"),
    ("event {} is not settled, and its content is gone", "SELECT id FROM event WHERE state != 2 AND body IS NULL"),
    (
        "event {} counts another size than its content has",
        "SELECT id FROM event WHERE body IS NOT NULL AND size != length(CAST(body AS BLOB))",
    ),
    (
        "event {} has receipts that cannot be read",
        "SELECT id FROM event WHERE attempts IS NOT NULL AND NOT json_valid('[' || attempts || ']')",
    ),
    ("parked delivery {} has targets that cannot be read", "SELECT id FROM parked WHERE NOT json_valid(targets)"),
    (
        "parked delivery {} has another lifetime or urgency than its event",
        "SELECT parked.id FROM parked JOIN event USING (seq)"
        " WHERE parked.expires_ms != event.expires_ms OR parked.urgent != event.urgent",
    ),
)


def check(path: Path) -> list[str]:
    """What is wrong with the store at `path`, as sentences; an empty list says that all is well."""
    try:
        with closing(_open(path)) as connection:
            connection.execute("BEGIN")
            return list(_findings(connection))
    except StoreError as error:
        return [str(error)]
    except sqlite3.Error as error:
        return [f"{path}: {sentence(error)}"]


def _findings(connection: sqlite3.Connection) -> Iterator[str]:
    damage = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_MOST_FINDINGS})")]
    if damage != ["ok"]:
        yield from (f"the file is damaged: {one}" for one in damage)
        return
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"alembic_version", "event", "parked"} <= tables:
        yield "the file is not a store of tocsin"
        return
    (schema,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or ("none",)
    if schema != head():
        yield f"the schema is {schema}, this version of tocsin has {head()}; a server brings an older one up to date"
        return
    for rule, query in _RULES:
        found = [key for (key,) in connection.execute(f"{query} LIMIT {_MOST_FINDINGS + 1}")]
        yield from (rule.format(key) for key in found[:_MOST_FINDINGS])
        if len(found) > _MOST_FINDINGS:
            yield f"and more of this kind: {rule.format('…')}"


def backup(path: Path, target: Path) -> None:
    """Copy the store at `path` to a new file `target`, as it is at one instant; writers are not held up.

    The copy is complete or not there at all, and is for its user's eyes only.

    Raises:
        StoreError: the store cannot be read, or the copy not be written; or `target` exists, which is left as it is.
    """
    if target.exists() or target.is_symlink():
        raise StoreError(f"{target}: exists; a backup never overwrites, name another file")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with closing(_open(path)) as source:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            _copy(source, partial)
        # A link, unlike a rename, fails where the name is taken by now.
        os.link(partial, target)
        _make_durable(target.parent)
    except FileExistsError as error:
        raise StoreError(f"{error.filename2 or error.filename}: exists; a backup never overwrites") from None
    except OSError as error:
        raise StoreError(f"{target}: {os_sentence(error)}") from None
    except sqlite3.Error as error:
        raise StoreError(f"{path}: the backup failed: {sentence(error)}") from None
    finally:
        for left in (partial, partial.with_name(partial.name + "-journal"), partial.with_name(partial.name + "-wal")):
            with suppress(OSError):
                left.unlink()


def _copy(source: sqlite3.Connection, partial: Path) -> None:
    with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        # All pages in one step are one read transaction: the copy is of one instant, and writers go on meanwhile.
        source.backup(copy, pages=-1)
        # One file, without a log beside it.
        copy.execute("PRAGMA journal_mode=DELETE")
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {verdict}")
    _make_durable(partial)


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StoreError(f"{path}: there is no store")
    uri = f"file:{str(path).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
