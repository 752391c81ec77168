"""Which errors of SQLite mean that the storage failed, and the sentence about each.

All other errors are about one job (a constraint, a value out of range): that job fails, those beside it do not.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError

from tocsin.store.ports import StorageFailure, StoreError, StoreUnavailable

_MENDABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
_CORRUPTION: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FAILED_SYNCS: Final = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
_SENTENCES: Final = {
    sqlite3.SQLITE_FULL: "the disk is full, or the quota used up; make room",
    sqlite3.SQLITE_IOERR: "the disk reports an I/O error; see the system's log",
    sqlite3.SQLITE_BUSY: "locked by another process; end whatever holds it",
    sqlite3.SQLITE_LOCKED: "locked by another connection",
    sqlite3.SQLITE_READONLY: "not writable; check its owner and mode, and whether the file system is read-only",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check its path, and the owner and mode of it and its directory",
    sqlite3.SQLITE_PERM: "not permitted; check its owner and mode",
    sqlite3.SQLITE_CORRUPT: "damaged; restore it from a backup",
    sqlite3.SQLITE_NOTADB: "not a SQLite database; restore it from a backup",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_PROTOCOL: "locked by another process; end whatever holds it",
    sqlite3.SQLITE_NOLFS: "too large for its file system",
}


def storage_failure(error: BaseException) -> sqlite3.Error | None:
    """The driver's error behind `error`, where it says that the storage itself failed."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, BaseException):
        error = error.orig
    return error if isinstance(error, sqlite3.Error) and _code(error) in _SENTENCES else None


def sentence(error: sqlite3.Error) -> str:
    """What is wrong and what to do, and what SQLite calls it."""
    known = _SENTENCES.get(_code(error))
    return str(error) if known is None else f"{known} ({error})"


def is_corruption(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.Error) and _code(error) in _CORRUPTION


def is_failed_sync(error: BaseException | None) -> bool:
    """Whether a sync has failed: nobody knows what of the file is on the disk, now or after a sync that succeeds."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in _FAILED_SYNCS


def is_unreadable(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, or the disk cannot read it."""
    return is_corruption(error) or _code(error) == sqlite3.SQLITE_IOERR


def os_sentence(error: OSError) -> str:
    """The same for what the operating system says of the files beside the database."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            code = sqlite3.SQLITE_FULL
        case errno.EROFS | errno.EACCES | errno.EPERM:
            code = sqlite3.SQLITE_READONLY
        case errno.EIO:
            code = sqlite3.SQLITE_IOERR
        case _:
            return error.strerror or str(error)
    return f"{_SENTENCES[code]} ({error.strerror})"


@contextmanager
def explained(store: object) -> Iterator[None]:
    """Whatever prevents the use of `store` (the file's path) becomes one message.

    Raises:
        StoreError: it cannot be used.
        StorageFailure: it cannot be used at present.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _MENDABLE:
            raise StorageFailure(store, os_sentence(error)) from None
        raise StoreError(f"{store}: {os_sentence(error)}") from None
    except (sqlite3.Error, DBAPIError, StoreUnavailable) as error:
        failure = storage_failure(error.__cause__ or error)
        if failure is not None and not is_corruption(failure):
            raise StorageFailure(store, sentence(failure)) from None
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise StoreError(f"{store}: {sentence(cause) if isinstance(cause, sqlite3.Error) else cause}") from None


def _code(error: sqlite3.Error) -> int:
    """The primary result code; the driver's own errors (a closed connection) have none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
