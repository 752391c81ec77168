"""tocsin and the emulator as real processes, each with its files in its own directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from tests.support.children import end_with_parent
from tests.torture.journal import JournalReader

ROOT: Final = Path(__file__).resolve().parents[2]
APPLICATION: Final = "39JSDKGJ38.de.cospace.app"
VOIP_TOPIC: Final = "de.cospace.app.voip"
_READY_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 15.0


class DidNotStart(Exception):  # noqa: N818
    """A process ended, or was not ready in time; the message has the end of its log."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment variables without settings of tocsin, and with the path of the sources."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("TOCSIN_")}
    paths = [str(ROOT / "src"), str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)} | dict(extra or {})


_given: Final[set[int]] = set()
"""The ports that were given out: whoever has one listens later, or stops listening for a while."""


def free_ports(count: int) -> int:
    """The first of `count` consecutive ports that are free now, below those that the system assigns by itself. None is
    given out twice in a process."""
    for _ in range(200):
        base = secrets.randbelow(20_000) + 11_000
        ports = range(base, base + count)
        if not _given.isdisjoint(ports):
            continue
        with contextlib.ExitStack() as held:
            try:
                for port in ports:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.update(ports)
            return base
    raise DidNotStart(f"no {count} consecutive ports are free")


class _Process:
    """One `python -m …`. Its log goes through a pipe, so that a limit on file size does not stop it."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self, arguments: list[str], extra: Mapping[str, str] | None = None) -> None:
        assert not self.running
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(extra),
            cwd=self.log.parent,
            preexec_fn=end_with_parent(signal.SIGKILL),
        )
        self.starts += 1
        assert self._process.stderr is not None
        threading.Thread(target=_copy, args=(self._process.stderr, self.log), daemon=True).start()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; negative for a signal, None while it runs."""
        return None if self._process is None else self._process.poll()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """SIGTERM; returns the exit status.

        Raises:
            subprocess.TimeoutExpired: it did not stop in time.
        """
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout_s)

    def close(self) -> None:
        """End it, also where it is stopped (SIGSTOP)."""
        if self.running:
            self.send(signal.SIGCONT)
            self._process.terminate()  # type: ignore[union-attr]
            try:
                self._process.wait(_STOP_TIMEOUT_S)  # type: ignore[union-attr]
            except subprocess.TimeoutExpired:
                self.kill()

    async def _until(self, ready: Any, timeout_s: float = _READY_TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise DidNotStart(f"the {self.name} ended with status {self.status}\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise DidNotStart(f"the {self.name} was not ready within {timeout_s:.0f} s\n{self.last_lines()}")
            await asyncio.sleep(0.02)

    def last_lines(self, count: int = 25) -> str:
        time.sleep(0.05)  # the last lines may still be in the pipe
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"--- last lines of the {self.name}'s log", *lines[-count:]])


def _copy(source: IO[bytes], log: Path) -> None:
    with source, log.open("ab") as out:
        while piece := source.read1():  # type: ignore[attr-defined]
            out.write(piece)
            out.flush()


class Emulator(_Process):
    """The emulator of Apple and Google. After a restart its ports are the same."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__("emulator", directory / "emulator.log")
        self.directory = directory
        self.journal = directory / "journal.ndjson"
        self.summary: dict[str, Any] = {}
        self._port = free_ports(5)

    async def start(self) -> None:
        found = self.directory / "emulator.json"
        found.unlink(missing_ok=True)
        files = ("--directory", str(self.directory), "--journal", str(self.journal), "--journal-bodies")
        self._start(["tocsin.emulator", *files, "--inbox", "1000", "--port", str(self._port)])
        await self._until(found.exists)
        self.summary = msgspec.json.decode(found.read_bytes())

    def accepted_pushes(self) -> list[dict[str, Any]]:
        """Every push that it accepted, in order, from its journal."""
        return list(JournalReader(self.journal).read_new())


class Server(_Process):
    """`tocsin serve`. After a restart its port is the same."""

    def __init__(
        self, directory: Path, emulator: Emulator, settings: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__("server", directory / "server.log")
        self.directory = directory
        self.database = directory / "tocsin.db"
        self.config = directory / "tocsin.toml"
        self.port = free_ports(2)
        self.private_port = self.port + 1
        """Of health with its details, and metrics."""
        self.extra: dict[str, str] = {}
        """More environment variables: a preloaded shim."""
        self.role = "all"
        self._ready = directory / "ready"
        self.configure(emulator, settings)

    def configure(self, emulator: Emulator, settings: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        given: dict[str, dict[str, Any]] = {
            "server": {"port": self.port, "private_host": f"127.0.0.1:{self.private_port}", "drain_s": 5.0},
            "store": {"path": str(self.database)},
            "apns": {
                "production_url": emulator.summary["apns"]["production"],
                "sandbox_url": emulator.summary["apns"]["sandbox"],
                "ca_file": emulator.summary["ca"],
            },
            "fcm": {"url": emulator.summary["fcm"], "ca_file": emulator.summary["ca"]},
            "log": {"format": "json"},
        }
        for section, values in (settings or {}).items():
            given.setdefault(section, {}).update(values)
        if "url" in given["store"]:
            del given["store"]["path"]
        lines: list[str] = []
        for section, values in given.items():
            lines += [
                f"[{section}]",
                *(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items()),
            ]
        self.config.write_text("\n".join(lines) + "\n")

    async def start(self, *, wait: bool = True) -> None:
        self._ready.unlink(missing_ok=True)
        arguments = ["tocsin.cli", "serve", "--config", str(self.config), "--ready-file", str(self._ready)]
        arguments += ["--role", self.role]
        self._start(arguments, self.extra)
        if wait:
            await self.ready()

    async def ready(self, timeout_s: float = _READY_TIMEOUT_S) -> None:
        await self._until(self._ready.exists, timeout_s)

    def run_cli(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a `tocsin` command on this server's store in another process."""
        return subprocess.run(
            [sys.executable, "-m", "tocsin.cli", *arguments, "--config", str(self.config)],
            env=environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
