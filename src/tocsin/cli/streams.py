"""The standard streams of a command: usable where some are closed, and exact about what could not be written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_NAMES: Final = ("stdin", "stdout", "stderr")


class Output:
    """A stream that knows why it could not be written. All else is the stream's own.

    Where it is for `remarks`, such as logs, what cannot be written is left out: no command and no server fails for it.
    """

    def __init__(self, stream: Any, *, remarks: bool) -> None:
        self.failure: OSError | None = None
        self._stream = stream
        self._remarks = remarks

    def write(self, text: str) -> int:
        with self._noted():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._noted():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            if not self._remarks:
                raise


@contextmanager
def prepared() -> Iterator[Output]:
    """Meanwhile the standard streams are usable, whatever the caller has done with them; yields standard output.

    A closed one is opened: otherwise the next file to be opened, a database perhaps, would get its number. Writing to
    a closed standard output fails (EBADF), as it does for any program; standard error goes nowhere.
    """
    for number, name in enumerate(_NAMES):
        if _is_closed(number):
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    stdout, stderr = sys.stdout, sys.stderr
    for stream in (stdout, stderr):
        if hasattr(stream, "reconfigure"):
            # A character that the terminal cannot show is printed as a question mark, and no command fails for it.
            stream.reconfigure(errors="replace")
    output = Output(stdout, remarks=False)
    sys.stdout, sys.stderr = output, Output(stderr, remarks=True)
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for stream in (stdout, stderr):
            _discard_unwritten(stream)


def _discard_unwritten(stream: Any) -> None:
    """Drop what could not be written: the interpreter would try again at its end, and change the exit status."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        with suppress(OSError):
            stream.flush()


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
