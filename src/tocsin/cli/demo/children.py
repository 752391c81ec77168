"""Child processes: always stopped at the end, by themselves where this process is killed. Where one fails, the error
has the end of its log.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tocsin.cli.errors import CommandError

_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 12.0
_LOG_LINES: Final = 15


class Child:
    """One `tocsin …`, with its log in a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    def check(self) -> None:
        """Check that it runs.

        Raises:
            CommandError: it has ended.
        """
        status = self._process.poll()
        if status is not None:
            raise CommandError(f"the {self.name} ended with status {status}")

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until it is `ready`.

        Raises:
            CommandError: it ended, or took too long.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise CommandError(f"the {self.name} was not ready within {_START_TIMEOUT_S:.0f} seconds")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it with SIGTERM, or with SIGKILL when it does not stop in time."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def last_lines(self) -> str:
        """The end of its log, under a heading; empty when the log is empty."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if self._log.exists() else []
        return "\n".join([f"--- last lines of the {self.name}'s log", *lines]) if lines else ""


@contextmanager
def running(name: str, arguments: Sequence[str], log: Path) -> Iterator[Child]:
    """Run `tocsin <arguments>` until the block ends. A CommandError in the block gets the end of the log appended.

    The child has a session of its own: Ctrl-C in the terminal reaches this process alone, which then stops its
    children in order. Where this process is killed, the child finds its standard input closed, and ends (`child.py`).
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tocsin.cli.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
    child = Child(name, process, log)
    try:
        yield child
    except CommandError as error:
        raise type(error)("\n".join(part for part in (str(error), child.last_lines()) if part)) from None
    finally:
        child.stop()
