"""A child process that ends with the process that started it, however that ends: by SIGKILL, too."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent(by: signal.Signals) -> Callable[[], None]:
    """For `preexec_fn`: on Linux the child gets this signal when the thread that started it ends (prctl(2))."""

    def ask() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, by)

    return ask


def children_of(pid: int) -> list[int]:
    """The children of a process; none where the system does not say (proc(5), `/proc/PID/task/TID/children`)."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def remove_shared_memory(id: int) -> None:
    """Remove a segment of System V that a killed process has left (shmctl(2), IPC_RMID)."""
    if _LIBC is not None:
        _LIBC.shmctl(id, 0, None)
