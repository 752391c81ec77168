"""A model of a disk that loses power: what is durable of files and directories, and what may or may not be.

A sync of a file makes its content durable, not its name. A sync of a directory makes the names in it durable. All else
that was done since is *pending*: after a cut any part of it may be there. A rename is there or not, in both places at
once. A file is there when its name is, and that of every directory above it.

What was written before a sync that failed is *doubtful*: Linux keeps it in its cache, where it can be read, but takes
it for written (fsync(2), "EIO"). No later sync makes it durable; that it is written once more does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from msgspec import Struct

from tests.power_loss.trace import (
    Create,
    FailedSync,
    Link,
    Mark,
    Mkdir,
    Named,
    Operation,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
    Unlink,
    Write,
)

DIRECTORY = 0
"""In the place of a file's number."""
Files = dict[str, bytes | None]
"""Path and content of each file; a directory has None."""


class Disk:
    def __init__(self) -> None:
        self.content: dict[int, bytes] = {}
        """What is durable of each file."""
        self.names: dict[str, int] = {}
        """What is durable of each directory."""
        self.pending: list[Operation] = []
        self.doubtful: list[Write | Truncate] = []
        """Older than what is pending of the same file."""

    @property
    def optional(self) -> list[Operation]:
        """All that may or may not be there after a cut, in its order."""
        return [*self.doubtful, *self.pending]

    def do(self, operation: Operation) -> None:
        match operation:
            case Sync(inode):
                self._overwrite_doubtful(self._changes_of(inode))
                self._make_durable(self._changes_of(inode))
            case FailedSync(inode):
                failed = self._changes_of(inode)
                self.doubtful += failed
                self.pending = [one for one in self.pending if one not in failed]
            case SyncDirectory(path):
                self._make_durable([one for one in self.pending if isinstance(one, Named) and _parent(one) == path])
            case Mark():
                pass
            case _:
                self.pending.append(operation)

    def settle(self) -> None:
        """Everything is durable: so a story begins."""
        self._make_durable(self.optional)
        self.doubtful = []

    def after(self, kept: Sequence[Operation]) -> Files:
        """What is found after a cut that left, of what was pending, `kept`, in this order."""
        names, changed = dict(self.names), dict[int, bytearray]()
        for operation in kept:
            if isinstance(operation, Write | Truncate):
                inode = operation.inode
                if inode not in changed:
                    changed[inode] = bytearray(self.content.get(inode, b""))
                _change(changed[inode], operation)
            else:
                _rename(names, operation)
        return {
            path: None if inode == DIRECTORY else bytes(changed.get(inode, self.content.get(inode, b"")))
            for path, inode in names.items()
            if all(str(above) in names for above in PurePosixPath(path).parents[:-1])
        }

    def _changes_of(self, inode: int) -> list[Write | Truncate]:
        return [one for one in self.pending if isinstance(one, Write | Truncate) and one.inode == inode]

    def _overwrite_doubtful(self, synced: Sequence[Write | Truncate]) -> None:
        """These are about to become durable: what they overwrite is not in doubt any more.

        The length of a file is kept by the file system's journal, so a truncation is not in doubt after the next sync.
        """
        if not synced:
            return
        inode = synced[0].inode
        own = [one for one in self.doubtful if one.inode == inode]
        left = [one for one in self.doubtful if one.inode != inode]
        truncations = [one for one in own if isinstance(one, Truncate)]
        kept: list[Write] = []
        for one in own:
            kept = [*kept, one] if isinstance(one, Write) else [part for write in kept for part in _beside(write, one)]
        for one in synced:
            kept = [part for write in kept for part in _beside(write, one)]
        if truncations:
            content = bytearray(self.content.get(inode, b""))
            for one in truncations:
                _change(content, one)
            self.content[inode] = bytes(content)
        self.doubtful = [*left, *kept]

    def _make_durable(self, operations: list[Operation]) -> None:
        done = {id(operation) for operation in operations}
        changed: dict[int, bytearray] = {}
        for operation in operations:
            if isinstance(operation, Write | Truncate):
                inode = operation.inode
                if inode not in changed:
                    changed[inode] = bytearray(self.content.get(inode, b""))
                _change(changed[inode], operation)
            else:
                _rename(self.names, operation)
        self.content |= {inode: bytes(content) for inode, content in changed.items()}
        self.pending = [operation for operation in self.pending if id(operation) not in done]


def _change(content: bytearray, operation: Write | Truncate) -> None:
    if isinstance(operation, Truncate):
        del content[operation.size :]
        content.extend(bytes(operation.size - len(content)))
    else:
        content.extend(bytes(max(0, operation.offset - len(content))))
        content[operation.offset : operation.offset + len(operation.data)] = operation.data


def _beside(write: Write, later: Write | Truncate) -> list[Write]:
    """What is left of an earlier write under a later change."""
    end = write.offset + len(write.data)
    if isinstance(later, Truncate):
        parts = [(write.offset, min(end, later.size))]
    else:
        parts = [(write.offset, min(end, later.offset)), (max(write.offset, later.offset + len(later.data)), end)]
    return [Write(write.inode, at, write.data[at - write.offset : to - write.offset]) for at, to in parts if at < to]


def _rename(names: dict[str, int], operation: Operation) -> None:
    """A change of names whose own cause is lost changes nothing."""
    match operation:
        case Create(path, inode) | Link(path, inode):
            names[path] = inode
        case Mkdir(path):
            names[path] = DIRECTORY
        case Unlink(path):
            names.pop(path, None)
        case Rename(path, to) if path in names:
            names[to] = names.pop(path)


def _parent(operation: Operation) -> str:
    path = operation.to if isinstance(operation, Rename) else operation.path  # type: ignore[union-attr]
    return str(PurePosixPath(path).parent)


class State(Struct, frozen=True):
    """The disk after one cut. `files` are the story's; its hash tells it from others."""

    files: Files
    hash: bytes


def state_of(files: Files, story: str) -> State:
    """What lies in the story's directory, its paths relative to that."""
    prefix = f"{story}/"
    own = {path.removeprefix(prefix): content for path, content in files.items() if path.startswith(prefix)}
    hashed = blake2b(digest_size=16)
    for path in sorted(own):
        content = own[path]
        hashed.update(f"{path}\0{-1 if content is None else len(content)}\0".encode())
        hashed.update(content or b"")
    return State(own, hashed.digest())


def lay_out(state: State, directory: Path) -> None:
    """Make the files of a state in a directory, which is made. As all that tocsin makes, they are its user's alone."""
    directory.mkdir()
    for path in sorted(state.files):
        content = state.files[path]
        if content is None:
            (directory / path).mkdir(mode=0o700)
        else:
            descriptor = os.open(directory / path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
