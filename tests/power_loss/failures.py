"""Keeps a state that has failed in a directory, and starts on it again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from tests.power_loss.disk import lay_out
from tests.power_loss.expected import Expected
from tests.power_loss.judge import look
from tests.power_loss.run import Failure, store_of

COMMAND: Final = ".venv/bin/python -m tests.power_loss"
_NOTE: Final = "power-loss.json"
_DISK: Final = "disk"
_MOST_SENTENCES: Final = 5


class Note(Struct, frozen=True):
    story: str
    wrong: list[str]
    expected: Expected


def kept(found: Sequence[Failure]) -> str:
    """Keep all of them; returns what is wrong with each, and how to start on it again."""
    if not found:
        return ""
    directory, lines = Path(tempfile.mkdtemp(prefix="tocsin-power-loss-")), []
    for number, failure in enumerate(found):
        keep(failure, directory / str(number))
        first, *more = failure.wrong
        lines += ["", f"{failure.story}: {first}", *(f"    {sentence}" for sentence in more[:_MOST_SENTENCES])]
        lines.append(f"    Again: {COMMAND} --replay {directory / str(number)}")
    return "\n".join(lines)


def keep(failure: Failure, directory: Path) -> None:
    """The files that the cut has left, and what had been answered by then. `directory` is made."""
    directory.mkdir(parents=True)
    lay_out(failure.state, directory / _DISK)
    note = Note(failure.story, failure.wrong, failure.expected)
    (directory / _NOTE).write_bytes(msgspec.json.encode(note))


async def replay(directory: Path) -> list[str]:
    """Start on a copy of what was kept; returns what is wrong now."""
    note = msgspec.json.decode((directory / _NOTE).read_bytes(), type=Note)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / _DISK
        shutil.copytree(directory / _DISK, copy)
        found = await look(copy, copy / store_of(note.story))
    return found.faults or note.expected.wrong_in(found.facts)
