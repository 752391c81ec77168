"""The locks by which processes agree on who uses a store's file.

Two lock files lie beside it, named after the file that the path leads to, so through a symbolic link they are the same.
A hard link or a mount gives the file itself another name, in another directory: so a server locks the file, too.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from tocsin.store.ports import StoreError

ANOTHER_SERVER: Final = "another tocsin server is using it; stop that one first"
MIGRATING: Final = "another process is migrating it; try again"
_BY_ANOTHER_NAME: Final = (
    "a tocsin server is using this file by another name (a hard link, or a mount of the file alone); name it as the"
    " server does"
)
_EXCLUSIVE: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
_SHARED: Final = fcntl.LOCK_SH | fcntl.LOCK_NB
_OF_A_NEW_STORE: Final = 0o600
_USER_AND_GROUP: Final = 0o660
# On Linux, flock(2) and the fcntl(2) locks that SQLite takes do not see each other. On BSD and macOS they do, and
# SQLite could not use a file that is locked so.
_FILE_CAN_BE_LOCKED: Final = sys.platform == "linux"


class LockHeld(StoreError):  # noqa: N818
    """Another process holds the lock."""


@contextmanager
def migrating(path: Path) -> Iterator[None]:
    """One process at a time opens (and migrates) the store.

    Raises:
        LockHeld: another one does.
    """
    with _locked(path, _beside(path, ".migrate-lock"), otherwise=MIGRATING):
        yield


@contextmanager
def serving(path: Path, *, otherwise: str = ANOTHER_SERVER) -> Iterator[None]:
    """One server at a time uses the store at `path`, by whatever name. Nothing of it may be open yet: to close a file
    ends all locks of the process on it, SQLite's too.

    Raises:
        LockHeld: another server does.
    """
    with ExitStack() as held:
        held.enter_context(_locked(path, _beside(path, ".lock"), otherwise=otherwise))
        if _FILE_CAN_BE_LOCKED and path.exists():
            held.enter_context(_locked(path, path, otherwise=otherwise))
        yield


def refuse_another_name(path: Path) -> None:
    """What stands in the server's log is found under the server's name for the file, and under no other.

    Raises:
        StoreError: a server uses the file by another name.
    """
    # By this name it may be in use: the lock file is looked at first, so that the server's file is not even opened.
    if _FILE_CAN_BE_LOCKED and not _is_locked(_beside(path, ".lock")) and _is_locked(path):
        raise StoreError(f"{path}: {_BY_ANOTHER_NAME}")


def is_served(path: Path) -> bool:
    """Whether a server uses the store."""
    return _is_locked(_beside(path, ".lock"))


def _beside(path: Path, suffix: str) -> Path:
    file = os.path.realpath(path)
    return Path(file + suffix)


@contextmanager
def _locked(path: Path, file: Path, *, otherwise: str) -> Iterator[None]:
    """Hold the lock on `file` until the end of the context, or of the process."""
    with os.fdopen(_opened(path, file), "rb") as lock:
        try:
            fcntl.flock(lock, _EXCLUSIVE)
        except BlockingIOError:
            raise LockHeld(f"{path}: {otherwise}") from None
        yield


def _opened(path: Path, file: Path) -> int:
    """A descriptor of `file`, which is made where it is missing.

    Whoever can read a file can lock it, and no server could start then. So a lock file, also one that an earlier
    version has made, is for those alone who may use the store, as the files are that SQLite makes beside it.
    """
    allowed = (stat.S_IMODE(path.stat().st_mode) if path.exists() else _OF_A_NEW_STORE) & _USER_AND_GROUP
    descriptor = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, allowed)
    if file != path and stat.S_IMODE(os.fstat(descriptor).st_mode) & ~allowed:
        # Only its owner can.
        with suppress(PermissionError):
            os.fchmod(descriptor, allowed)
    return descriptor


def _is_locked(file: Path) -> bool:
    # What cannot be opened will be told by whoever opens it as a store.
    with suppress(OSError), file.open("rb") as lock:
        try:
            fcntl.flock(lock, _SHARED)
        except BlockingIOError:
            return True
    return False
