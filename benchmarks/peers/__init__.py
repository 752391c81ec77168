"""Other clients of APNs. They send the same payload from memory to the same emulator: no registry, queue or receipts.

Each is a process that warms up (connections, just-in-time compilation), prints `ready`, and then reads lines `COUNT
OFFSET` from its standard input and answers each with the seconds that these pushes took. So its rounds and ours can be
by turns. Where a peer cannot run, `Absent` says why. None of their code is in the repository: the packages come from
their registries, by the usual clients, into a temporary directory.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.environment import Process, child_variables

_HERE = Path(__file__).parent
_INSTALL_S = 400
_GORUSH = "github.com/appleboy/gorush@v1.15.0"


class Absent(Exception):  # noqa: N818
    """This peer cannot be measured here; the message says why."""


class Peer:
    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self._process = Process(child)
        self._sent = 0
        if self._line() != "ready":
            raise Absent(f"it did not get ready: {self._why()}")

    def rate(self, count: int) -> float:
        """Pushes a second over `count` of them, each to another device."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{count} {self._sent}\n")
        self._child.stdin.flush()
        self._sent += count
        line = self._line()
        if not line:
            raise Absent(f"it failed: {self._why()}")
        return count / float(line)

    def cpu_s(self) -> float:
        """CPU time that it has used so far."""
        return self._process.cpu_s()

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()

    def _line(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def _why(self) -> str:
        self._child.kill()
        _, error = self._child.communicate()
        return (error.strip().splitlines() or ["without a word"])[-1]


@contextmanager
def _running(command: list[str], directory: Path) -> Iterator[Peer]:
    child = subprocess.Popen(
        command, cwd=directory, env=child_variables(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        peer = Peer(child)
    except Absent:
        child.kill()
        raise
    try:
        yield peer
    finally:
        peer.close()


def _arguments(emulator: dict[str, Any]) -> list[str]:
    port = emulator["apns"]["production"].rsplit(":", 1)[1]
    return [port, emulator["apns_key"], emulator["key_id"], emulator["team_id"], emulator["ca"]]


def _install(what: str, commands: list[list[str]], directory: Path) -> None:
    for command in commands:
        try:
            subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
            raise Absent(f"{what} could not be installed: {last}") from None
        except (subprocess.SubprocessError, OSError) as error:
            raise Absent(f"{what} could not be installed: {type(error).__name__}") from None


@contextmanager
def aioapns(emulator: dict[str, Any], directory: Path) -> Iterator[Peer]:
    """`aioapns` (Python), 500 at a time over its pool's one connection."""
    command = [sys.executable, "-m", "benchmarks.peers.aioapns_peer", *_arguments(emulator)]
    with _running(command, Path(__file__).parents[2]) as peer:
        yield peer


@contextmanager
def node_apn(emulator: dict[str, Any], directory: Path) -> Iterator[Peer]:
    """`@parse/node-apn` (JavaScript), 500 at a time."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Absent("node or npm is absent")
    (directory / "package.json").write_text('{"name": "peer", "private": true}')
    shutil.copy(_HERE / "node_apn.js", directory / "peer.js")
    npm = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent", "@parse/node-apn"]
    _install("@parse/node-apn", [npm], directory)
    with _running(["node", "peer.js", *_arguments(emulator)], directory) as peer:
        yield peer


@contextmanager
def gorush(emulator: dict[str, Any], directory: Path) -> Iterator[Peer]:
    """gorush (Go): its own `notify.PushToIOS`, 500 at a time, with its logs and hooks off."""
    if shutil.which("go") is None:
        raise Absent("Go is absent")
    shutil.copy(_HERE / "gorush.go.txt", directory / "main.go")
    steps = [["go", "mod", "init", "peer"], ["go", "get", _GORUSH], ["go", "build", "-o", "peer", "."]]
    _install("gorush", steps, directory)
    with _running([str(directory / "peer"), *_arguments(emulator)], directory) as peer:
        yield peer


PEERS: dict[str, Callable[[dict[str, Any], Path], Any]] = {"aioapns": aioapns, "node_apn": node_apn, "gorush": gorush}
