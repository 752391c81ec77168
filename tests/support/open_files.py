"""Which files this process has open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

_OPEN: Final = Path("/proc/self/fd")


def open_files(path: Path) -> list[str]:
    """Names of the open files that begin with this path: the file itself, and those beside it with a longer name.

    Skips the test where the system does not say which files are open.
    """
    if not _OPEN.exists():
        pytest.skip(reason="only Linux says in /proc which files a process has open")
    found = []
    for file in _OPEN.iterdir():
        with suppress(OSError):
            found.append(os.readlink(file))
    return [name for name in found if name.startswith(str(path))]
