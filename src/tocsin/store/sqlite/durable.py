"""Makes files and directories durable, so that no power cut takes them: fsync(2), of a directory for its names."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

# A directory that may not be read, or a file system that does not sync directories or cannot be written.
_CANNOT_BE_SYNCED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EROFS})


def make_durable(path: Path) -> None:
    """The content of a file, or the names in a directory.

    Raises:
        OSError: it cannot be synced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory for its user's eyes only, and those above it that are missing; all of them are durable then.

    The name of each is durable before the next is made in it. So of those that were there, only the last may not be:
    a process that was killed may have made it.

    Raises:
        OSError: it cannot be made, or its name not be synced where that can be done.
    """
    missing, there = [], path
    while not there.exists():
        missing.append(there)
        there = there.parent
    make_name_durable(there)
    for directory in reversed(missing[1:]):
        directory.mkdir(exist_ok=True)
        make_name_durable(directory)
    path.mkdir(exist_ok=True, mode=0o700)
    if missing:
        make_name_durable(path)


def make_name_durable(path: Path) -> None:
    """That it is there, or is not there any more, where the file system can sync a directory.

    Raises:
        OSError: the directory cannot be synced.
    """
    try:
        make_durable(path.parent)
    except OSError as error:
        if error.errno not in _CANNOT_BE_SYNCED:
            raise
