"""Checks a store and copies it, while a server may be running on it; and puts a copy in its place, while none is."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from tocsin.domain.actors import Actor
from tocsin.store.audit_chain import Action, Change, Ends
from tocsin.store.content_keys import OVERHEAD_BYTES
from tocsin.store.envelope import TRACE_BYTES
from tocsin.store.ports import StoreError
from tocsin.store.sqlite import audit, locks, sealed_rows, search_index
from tocsin.store.sqlite.connection import close, file_uri, open_connection, raw
from tocsin.store.sqlite.durable import make_directory, make_durable
from tocsin.store.sqlite.failures import is_unreadable, os_sentence, sentence
from tocsin.store.sqlite.migrations import MigrationError, head, is_current

_MOST_FINDINGS: Final = 20
_BUSY_TIMEOUT_S: Final = 5.0
_READING_FAILED: Final = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
)

_PAGES: Final = 4096
"""So many are copied between two looks at how far it is."""

Copied = Callable[[int, int], None]
"""Told how many pages are copied, of how many."""


def _nobody(copied: int, pages: int) -> None: ...


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
        "SELECT id FROM event WHERE body IS NOT NULL AND length(CAST(body AS BLOB)) - size"
        f" - iif(content_key_id IS NULL, 0, {OVERHEAD_BYTES}) NOT IN (0, {TRACE_BYTES})",
    ),
    (
        "event {} has a content whose key is gone, or a key without a content",
        "SELECT id FROM event WHERE content_key_id IS NOT NULL"
        " AND (body IS NULL OR content_key_id NOT IN (SELECT id FROM content_key))",
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


def files(path: Path) -> list[Path]:
    """The files of the store at `path` that are there: the database, its log, the search index, and the locks."""
    file = Path(os.path.realpath(path))
    beside = [_beside(file, suffix) for suffix in ("", "-wal", "-shm", "-journal", ".lock", ".migrate-lock")]
    return [one for one in (*beside, *search_index.files_of(file)) if os.path.exists(one)]


def used_keys(path: Path) -> list[str]:
    """The ids of the master keys that the credentials of the store at `path` need; none where it is no such store."""
    try:
        with closing(_open(path)) as connection:
            return sealed_rows.used_keys(connection)
    except (StoreError, sqlite3.Error, OSError):
        return []


def _findings(connection: sqlite3.Connection) -> Iterator[str]:
    if damage := _damage(connection):
        yield from damage
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


def _damage(connection: sqlite3.Connection) -> list[str]:
    """What prevents the file from being used as a store at all, of whatever version."""
    damage = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_MOST_FINDINGS})")]
    if damage != ["ok"]:
        return [f"the file is damaged: {one}" for one in damage]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [] if {"alembic_version", "event", "parked"} <= tables else ["the file is not a store of tocsin"]


def backup(path: Path, target: Path, copied: Copied = _nobody) -> None:
    """Copy the store at `path` to a new file `target`, as it is at one instant; writers are not held up. `copied` is
    told how far it is.

    The copy is complete or not there at all, and is for its user's eyes only.

    Raises:
        StoreError: the store cannot be read, or the copy not be written; or `target` exists, which is left as it is.
    """
    partial = _partial(target)
    try:
        if target.exists() or target.is_symlink():
            raise StoreError(f"{target}: exists; a backup never overwrites, name another file")
        _copy(path, partial, copied)
        _give_name(partial, target)
        make_durable(target.parent)
    except FileExistsError as error:
        raise StoreError(f"{error.filename2 or error.filename}: exists; a backup never overwrites") from None
    except OSError as error:
        raise StoreError(f"{target}: {os_sentence(error)}") from None
    except sqlite3.Error as error:
        where = target if _is_about_writing(error) else path
        raise StoreError(f"{where}: the backup failed: {sentence(error)}") from None
    finally:
        _clear_away(partial)


def _give_name(partial: Path, target: Path) -> None:
    """Make the file `partial` appear as `target`, whole.

    Raises:
        FileExistsError: the name is taken by now.
    """
    try:
        # A link, unlike a rename, fails where the name is taken.
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: an empty file takes the name, and is replaced.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            os.replace(partial, target)
        except OSError:
            target.unlink(missing_ok=True)
            raise


def _is_about_writing(error: sqlite3.Error) -> bool:
    """Whether an error while a store was copied is about the copy, and not about what was read."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code & 0xFF == sqlite3.SQLITE_FULL:
        return True
    return code & 0xFF == sqlite3.SQLITE_IOERR and code not in _READING_FAILED


def restore(path: Path, copy: Path, *, restored_by: tuple[Actor, str] | None = None, copied: Copied = _nobody) -> bool:
    """Put a copy of `copy`, which stays, in the place of the store at `path`, if there is one: all in it is lost.
    `copied` is told how far it is.

    Its audit log tells of it: who has restored it, in the chain named. Returns whether it does; an older version's
    copy has none.

    Raises:
        StoreError: a server is running, or `copy` is not a sound store of this version or an older one, or it cannot
            be put there. Then the store is left as it is.
    """
    if not os.path.isfile(copy):  # Whose errors are False: a name may be too long, or its directory closed.
        raise StoreError(f"{copy}: there is no store")
    # A symbolic link stays, and leads to the new store.
    file = Path(os.path.realpath(path))
    partial = _partial(file)
    try:
        make_directory(file.parent)
        with out_of_use(file):
            _copy(copy, partial, copied)
            _refuse_unusable(partial, copy)
            on_record = restored_by is not None and _note_restore(partial, file, copy, *restored_by)
            _put_in_place(partial, file)
            return on_record
    except OSError as error:
        raise StoreError(f"{path}: {os_sentence(error)}") from None
    except sqlite3.Error as error:
        raise StoreError(f"{copy}: cannot be restored to {path}: {sentence(error)}") from None
    finally:
        _clear_away(partial)


def _note_restore(partial: Path, path: Path, copy: Path, actor: Actor, chain: str) -> bool:
    """Write the entry into the file that is about to be the store; whether that has an audit log."""
    with closing(sqlite3.connect(partial, isolation_level=None)) as driver:
        if not driver.execute("SELECT 1 FROM sqlite_master WHERE name = 'audit_chain'").fetchone():
            return False
        lost = {f"lost {one.chain}": f"{one.head.number} {one.head.hash.hex()}" for one in _chains_of(path)}
        driver.execute("BEGIN IMMEDIATE")
        audit.append(driver, chain, int(time.time() * 1000), actor, Change(Action.STORE_RESTORE, str(copy), lost))
        driver.execute("COMMIT")
    make_durable(partial)
    return True


def _chains_of(path: Path) -> list[Ends]:
    """The audit log's chains of the store at `path`; none where it cannot be read."""
    try:
        with closing(_open(path)) as driver:
            return audit.chains(driver)
    except (StoreError, sqlite3.Error, OSError):
        return []


@contextmanager
def out_of_use(path: Path) -> Iterator[None]:
    """Meanwhile no server uses the store at `path`, and nobody opens it.

    Raises:
        StoreError: a server uses it, or another process is just opening it.
    """
    with locks.migrating(path), locks.serving(path, otherwise="a tocsin server is using it; stop that one first"):
        yield


def _put_in_place(partial: Path, path: Path) -> None:
    """Until the new file has its name, the old store is whole, whatever fails: nothing of it is deleted before, but the
    index of the search, which is made again."""
    if path.exists():
        _write_log_into_file(path)
    # A new store beside the index or the log of an old one would take them for its own.
    search_index.delete(path)
    aside = _set_aside(path)
    make_durable(path.parent)
    try:
        os.replace(partial, path)
    except OSError as error:
        for file, away in aside:
            os.replace(away, file)
        if error.errno == errno.EBUSY:
            raise StoreError(f"{path}: is a mount of its own, and cannot be replaced; mount its directory") from None
        raise
    make_durable(path.parent)
    for _, away in aside:
        away.unlink(missing_ok=True)


def _write_log_into_file(path: Path) -> None:
    """What was committed last stands in the log: with it in the file, a restore that is killed leaves a whole store.

    Raises:
        StoreError: another process uses the store.
        sqlite3.Error: its storage fails. A damaged one is left as it is.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT_S)) as old:
            # Read first: only then does SQLite look for the log.
            old.execute("SELECT count(*) FROM sqlite_master").fetchone()
            busy, *_ = old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        if is_unreadable(error):
            return
        raise
    if busy:
        raise StoreError(f"{path}: another process is using it; end that first")


def _set_aside(path: Path) -> list[tuple[Path, Path]]:
    """Rename the log and what else lies beside the store; returns what it was and is called now."""
    aside = []
    for suffix in ("-wal", "-shm", "-journal"):
        file, away = _beside(path, suffix), path.with_name(f".{path.name}.{os.getpid()}.old{suffix}")
        with suppress(FileNotFoundError):
            os.replace(file, away)
            aside.append((file, away))
    return aside


def _refuse_unusable(partial: Path, copy: Path) -> None:
    connection = open_connection(partial, read_only=True)
    try:
        findings = _damage(raw(connection))
        if not findings and is_current(connection):
            findings = list(_findings(raw(connection)))
    except MigrationError as error:
        findings = [str(error)]
    finally:
        close(connection)
    if findings:
        raise StoreError(f"{copy}: cannot be restored: {findings[0]}")


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _clear_away(partial: Path) -> None:
    for left in (partial, _beside(partial, "-journal"), _beside(partial, "-wal"), _beside(partial, "-shm")):
        with suppress(OSError):
            left.unlink()


def _copy(path: Path, partial: Path, copied: Copied) -> None:
    """All of the store at `path` in the new file `partial`, durable."""
    with closing(_open(path)) as source:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _fill(partial, source, copied)
    make_durable(partial)


def _fill(partial: Path, source: sqlite3.Connection, copied: Copied) -> None:
    with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        # All steps are in one read transaction: the copy is of one instant, and writers go on meanwhile.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(copy, pages=_PAGES, progress=lambda _, left, total: copied(total - left, total), sleep=0)
        source.execute("COMMIT")
        # One file, without a log beside it.
        copy.execute("PRAGMA journal_mode=DELETE")
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {verdict}")


def _open(path: Path) -> sqlite3.Connection:
    if not os.path.isfile(path):
        raise StoreError(f"{path}: there is no store")
    locks.refuse_another_name(path)
    return sqlite3.connect(file_uri(path, read_only=True), uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
