"""A terminal for the commands of one page: one shell, in a directory of its own, with what runs in the background."""

from __future__ import annotations

import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.docs.forked import CLIENT

_LISTENS: Final = {
    "serve": re.compile(r"listening"),
    "console": re.compile(r"The console: http\S+\n"),
    "emulator": re.compile(r"^}$", re.MULTILINE),
}
"""Commands that run until they are stopped, and what they print when they are ready."""
_TIMEOUT_S: Final = 60.0


class Terminal:
    """A shell in `directory`. `environment` is what its commands have besides PATH."""

    def __init__(self, directory: Path, programs: Path, environment: Mapping[str, str]) -> None:
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.directory = directory
        self._environment = {"PATH": path, "HOME": str(directory), "LANG": "C.UTF-8", "TZ": "UTC", **environment}
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env=self._environment,
        )
        self._behind: list[subprocess.Popen[bytes]] = []

    def run(self, command: str) -> tuple[int, str]:
        """Its exit status and all that it printed; for a server, 0 and what it printed until it was ready."""
        server = re.match(r"tocsin (serve|console|emulator)\b", command)
        return (0, self._started(command, server[1])) if server else self._ran(command)

    def _ran(self, command: str) -> tuple[int, str]:
        mark = secrets.token_hex(8)
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null 2>&1; echo; echo {mark} $?\n")
        self._shell.stdin.flush()
        printed = ""
        for line in self._shell.stdout:
            if line.startswith(mark):
                return int(line.split()[1]), printed.removesuffix("\n")
            printed += line
        raise AssertionError(f"the shell has ended in: {command}\n{printed}")

    def _started(self, command: str, kind: str) -> str:
        log = self.directory / f"{kind}-{len(self._behind)}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command.removesuffix('&')}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env=self._environment,
            )
        self._behind.append(server)
        deadline = time.monotonic() + _TIMEOUT_S
        while not _LISTENS[kind].search(log.read_text()):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        return log.read_text()

    def stop(self) -> None:
        """Stop what runs in the background, newest first, as Ctrl-C does.

        Raises:
            AssertionError: one did not end as it should.
        """
        while self._behind:
            server = self._behind.pop()
            server.send_signal(signal.SIGINT)
            assert server.wait(_TIMEOUT_S) in (0, 130), server.args

    def close(self) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(_TIMEOUT_S)
        for server in self._behind:
            server.terminate()
            server.wait(_TIMEOUT_S)


@contextmanager
def tocsin_program(directory: Path) -> Iterator[Path]:
    """A directory with a program `tocsin` that starts at once: see `forked`."""
    socket = directory / "s"
    server = subprocess.Popen([sys.executable, "-m", "tests.docs.forked", str(socket)], cwd=Path(__file__).parents[2])
    (directory / "bin").mkdir()
    program = directory / "bin/tocsin"
    program.write_text(CLIENT.format(python=sys.executable, socket=str(socket)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while not socket.exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield directory / "bin"
    finally:
        server.terminate()
        server.wait(_TIMEOUT_S)
