"""Makes the disk fail under a running server: a preloaded shim where there is a C compiler, else a limit on file size.

No special rights are needed, and only the server's own database is affected.
"""

from __future__ import annotations

import mmap
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.torture.processes import Server

KINDS: Final = {"no space left": b"f", "write error": b"w", "sync error": b"s"}
QUOTA: Final = "file size limit"
_NO_FAILURE: Final = b"-"


class Disk:
    """Makes one server's disk fail in one of several ways (`kinds`), one at a time."""

    def __init__(self, directory: Path, server: Server, *, shim: bool = True) -> None:
        self._server = server
        self._limited = False
        library = _build(directory) if shim else None
        self._control: mmap.mmap | None = None
        self.kinds: list[str] = [QUOTA] if hasattr(resource, "prlimit") else []
        if library is not None:
            control = directory / "disk-control"
            control.write_bytes(_NO_FAILURE)
            with control.open("r+b") as file:
                self._control = mmap.mmap(file.fileno(), 1)
            server.extra = {"LD_PRELOAD": str(library), "TORTURE_DISK": str(control)}
            self.kinds += KINDS

    @property
    def shim(self) -> bool:
        return self._control is not None

    def break_(self, kind: str) -> None:
        if kind == QUOTA:
            # Python ignores SIGXFSZ, so a write beyond the limit fails with EFBIG.
            self._limited = True
            self._limit(0)
        else:
            assert self._control is not None
            self._control[:1] = KINDS[kind]

    def mend(self) -> None:
        """Let the disk work again, also for a server that was killed and started again in between."""
        if self._control is not None:
            self._control[:1] = _NO_FAILURE
        if self._limited and self._server.running:
            self._limit(resource.RLIM_INFINITY)
        self._limited = False

    def _limit(self, size: int) -> None:
        _, hard = resource.prlimit(self._server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._server.pid, resource.RLIMIT_FSIZE, (hard if size == -1 else size, hard))


def _build(directory: Path) -> Path | None:
    """The compiled shim; None where it cannot be compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = directory / "disk-shim.so"
    source = Path(__file__).with_name("shim.c")
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], capture_output=True
    )
    return library if built.returncode == 0 else None
