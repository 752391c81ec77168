"""What a recorded run did to its files, in order, read from the log that `recorder.c` writes."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec
from msgspec import Struct


class Create(Struct, frozen=True, gc=False):
    """A new file, empty."""

    path: str
    inode: int


class Mkdir(Struct, frozen=True, gc=False):
    path: str


class Link(Struct, frozen=True, gc=False):
    """Another name for a file that is there."""

    path: str
    inode: int


class Unlink(Struct, frozen=True, gc=False):
    path: str


class Rename(Struct, frozen=True, gc=False):
    path: str
    to: str


class Write(Struct, frozen=True, gc=False):
    inode: int
    offset: int
    data: bytes


class Truncate(Struct, frozen=True, gc=False):
    inode: int
    size: int


class Sync(Struct, frozen=True, gc=False):
    inode: int


class FailedSync(Struct, frozen=True, gc=False):
    """What was written to the file may be lost from now on, though it can be read, and whatever is synced later."""

    inode: int


class SyncDirectory(Struct, frozen=True, gc=False):
    path: str


class Mark(Struct, frozen=True, gc=False):
    """What the recorded program said at this point; JSON."""

    text: bytes


Named = Create | Mkdir | Link | Unlink | Rename
"""What changes a directory."""
Operation = Named | Write | Truncate | Sync | FailedSync | SyncDirectory | Mark


def read(log: Path, root: Path) -> list[Operation]:
    """The operations of a log; paths are relative to `root`, the root itself is `.`.

    A number that the file system gives to a second file, after the first is gone, becomes a number of its own.
    """
    data, at = log.read_bytes(), 0
    operations: list[Operation] = []
    current: dict[int, int] = {}
    files = 0
    while at < len(data):
        end = data.index(b"\n", at)
        kind, *numbers = data[at:end].split()
        first, *_, length = (int(number) for number in numbers)
        content = data[end + 1 : end + 1 + length]
        at = end + 1 + length
        if kind == b"create":
            files += 1
            current[first] = files
            operations.append(Create(_relative(content, root), files))
        elif kind == b"write":
            operations.append(Write(current[first], int(numbers[1]), content))
        elif kind == b"truncate":
            operations.append(Truncate(current[first], int(numbers[1])))
        elif kind == b"sync":
            operations.append(Sync(current[first]))
        elif kind == b"failsync":
            operations.append(FailedSync(current[first]))
        elif kind == b"link":
            operations.append(Link(_relative(content, root), current[first]))
        elif kind == b"rename":
            operations.append(Rename(_relative(content[:first], root), _relative(content[first:], root)))
        elif kind == b"mark":
            operations.append(Mark(content))
        else:
            operations.append(_OF_A_PATH[kind](_relative(content, root)))
    return operations


_OF_A_PATH = {b"mkdir": Mkdir, b"unlink": Unlink, b"syncdir": SyncDirectory}


def _relative(path: bytes, root: Path) -> str:
    return str(PurePosixPath(path.decode()).relative_to(root))


class Marked(Struct, frozen=True, kw_only=True):
    """What a recorded story says of itself (see `told.Told`)."""

    kind: str
    """`story`, `begins`, `starts`, `answers`, `refuses` or `ends`."""
    number: int = 0
    """Which action starts, or was answered."""
    facts: dict[str, str | None] = {}
    """What the action makes true. None: that there is no such thing (any more)."""
    atomic: bool = True
    """Whether all of an action is to be there, or nothing."""
    name: str = ""
    """Which story."""


def marked(mark: Mark) -> Marked:
    return msgspec.json.decode(mark.text, type=Marked)
