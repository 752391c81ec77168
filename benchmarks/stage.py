"""A server and an emulator as real processes in a fresh directory, with registered users."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from tocsin.domain.devices import ApplicationId, Device
from tocsin.domain.events import UserId
from tocsin.settings import Settings, Store
from tocsin.store.configured import open_store
from tocsin.store.ports import Application, FcmProject, Learned, Role

APPLICATION = "39JSDKGJ38.de.cospace.app"
FAILING = "39JSDKGJ38.de.cospace.failing"
SILENT = "39JSDKGJ38.de.cospace.silent"
PROJECT = "tocsin-emulator"
_REGISTERED_AT_ONCE = 2000
_HZ = os.sysconf("SC_CLK_TCK")


def owner(number: int) -> UserId:
    return UserId(f"00000000-0000-4000-8000-{number:012x}")


def token(user: int, number: int = 0) -> str:
    """The APNs device token of a user's device."""
    return f"{user:032x}{number:032x}"


def fax(user: str) -> bytes:
    """One event of about 190 bytes: the document's fax_new."""
    return (
        b'{"owner":"%s","message":"fax_new","fax":"af729cc0-3251-11e2-81c1-0800200c9a66",'
        b'"phone":"+492215587412","page_count":2}' % user.encode()
    )


class Group(Struct, frozen=True):
    """Users who are alike: how many, and what each of them has registered."""

    users: int
    devices: int = 1
    system: str = "apns"
    application: str = APPLICATION
    reached: bool = False
    """Their success of the day is noted: the first one costs a write of the device's page."""


@dataclass
class Process:
    """A child process and its accounts, as the kernel keeps them."""

    child: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.child.pid

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _HZ

    def _status_mib(self, name: str) -> float:
        line = next(line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    def peak_mib(self) -> float:
        return self._status_mib("VmHWM")

    def resident_mib(self) -> float:
        return self._status_mib("VmRSS")


@dataclass
class Stage:
    directory: Path
    emulator: dict[str, Any]
    emulator_process: Process
    producer_key: str = ""
    sid: str = ""
    url: str = ""
    server: Process | None = None
    groups: list[range] = field(default_factory=list)
    """The numbers of each group's users."""
    _running: list[Process] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return self.directory / "tocsin.db"

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    def control(self, method: str, path: str, body: Any = None) -> Any:
        parts = urlsplit(self.emulator["control"])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def accepted(self) -> int:
        """How many pushes the emulator has taken so far."""
        count: int = self.control("GET", "/stats")["accepted"]
        return count

    def metric(self, name: str) -> float:
        """One of the server's own numbers; 0 where it has not counted any yet."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request("GET", "/metrics")
            for line in connection.getresponse().read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        finally:
            connection.close()
        return 0.0

    def settled(self) -> int:
        """How many events the server has settled so far: their receipts are on disk."""
        return int(self.metric("tocsin_items_settled_total"))

    def wait_for(self, count: Callable[[], int], least: int, timeout_s: float = 300) -> None:
        """Until `count` has reached `least`."""
        ends = time.perf_counter() + timeout_s
        while (found := count()) < least:
            if time.perf_counter() > ends:
                raise RuntimeError(f"only {found} of {least} within {timeout_s:g} s")
            time.sleep(0.01)

    def start_server(self, **variables: str) -> float:
        """Start the server; returns how long it took until it listened."""
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        urls = self.emulator["apns"]
        own = {
            "TOCSIN_STORE__PATH": str(self.database),
            "TOCSIN_SERVER__PORT": "0",
            "TOCSIN_APNS__PRODUCTION_URL": urls["production"],
            "TOCSIN_APNS__SANDBOX_URL": urls["sandbox"],
            "TOCSIN_APNS__CA_FILE": self.emulator["ca"],
            "TOCSIN_FCM__URL": self.emulator["fcm"],
            "TOCSIN_FCM__CA_FILE": self.emulator["ca"],
        }
        started = time.perf_counter()
        with (self.directory / "server.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "tocsin", "serve", "--ready-file", str(ready)],
                env=environment() | own | variables,
                stdout=log,
                stderr=log,
            )
        self.server = Process(child)
        self._running.append(self.server)
        while not (ready.exists() and ready.read_text().strip()):
            if child.poll() is not None:
                raise RuntimeError(f"the server ended: {(self.directory / 'server.log').read_text()[-2000:]}")
            time.sleep(0.01)
        self.url = ready.read_text().strip()
        return time.perf_counter() - started

    def pause(self) -> None:
        """Stop the server's clockwork for a while (SIGSTOP), so that another may be measured."""
        assert self.server is not None
        self.server.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.server is not None
        self.server.child.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in (*self._running, self.emulator_process):
            _stop(process)


def environment() -> dict[str, str]:
    """For child processes: this checkout's code, and none of the settings that happen to be set here."""
    source = str(Path(__file__).parents[1] / "src")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TOCSIN_")}
    return clean | {"PYTHONPATH": source}


def _stop(process: Process) -> None:
    if process.child.poll() is None:
        process.child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.child.wait(15)
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait()


def start_emulator(directory: Path, *options: str) -> tuple[dict[str, Any], Process]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tocsin.emulator", "--directory", str(directory), "--inbox", "1000", *options],
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    summary = directory / "emulator.json"
    while not summary.exists():
        if child.poll() is not None:
            raise RuntimeError("the emulator ended")
        time.sleep(0.02)
    return json.loads(summary.read_text()), Process(child)


@contextmanager
def staged(groups: Sequence[Group], *emulator_options: str) -> Iterator[Stage]:
    """Emulator up, users registered, credentials stored, all in a temporary directory; no server yet."""
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as directory:
        summary, process = start_emulator(Path(directory) / "emulator", *emulator_options)
        stage = Stage(Path(directory), summary, process)
        try:
            asyncio.run(_furnish(stage, groups))
            yield stage
        finally:
            stage.close()


async def _furnish(stage: Stage, groups: Sequence[Group]) -> None:
    settings = Settings(store=Store(path=stage.database))
    async with open_store(settings) as store:
        key = Path(stage.emulator["apns_key"]).read_text()
        for application in sorted({group.application for group in groups} | {APPLICATION}):
            await store.applications.put_application(
                Application(ApplicationId(application), key, stage.emulator["key_id"])
            )
        account = Path(stage.emulator["service_account"]).read_text()
        await store.applications.put_project(FcmProject(PROJECT, account, True))
        stage.producer_key, _ = await store.access.create_key(Role.PRODUCER, "benchmark", None)
        stage.sid, _ = await store.access.create_session(owner(0), None)
        first = 0
        for group in groups:
            users = range(first, first + group.users)
            stage.groups.append(users)
            first = users.stop
            for some in range(users.start, users.stop, _REGISTERED_AT_ONCE):
                devices = [
                    _device(group, user, number)
                    for user in users[some - users.start :][:_REGISTERED_AT_ONCE]
                    for number in range(group.devices)
                ]
                await asyncio.gather(*(store.registry.add(device, 100) for device in devices))
                if group.reached:
                    now_ms = int(time.time() * 1000)
                    await store.registry.learn(
                        [
                            Learned(owner=each.owner, system=each.system, token=each.token, success_ms=now_ms)
                            for each in devices
                        ]
                    )


def _device(group: Group, user: int, number: int) -> Device:
    apns = group.system == "apns"
    return Device(
        owner(user),
        group.system,
        token(user, number) if apns else f"registration-token-{user}-{number}",
        group.application if apns else None,
        False,
        None,
        user * 100 + number + 1,
    )
