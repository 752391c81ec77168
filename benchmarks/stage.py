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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tocsin.domain.devices import ApplicationId, Device
from tocsin.settings import Settings, Store
from tocsin.store.configured import open_store
from tocsin.store.ports import Application, FcmProject, Role

APPLICATION = "39JSDKGJ38.de.cospace.app"
PROJECT = "tocsin-emulator"
_HZ = os.sysconf("SC_CLK_TCK")


def owner(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def fax(user: str) -> bytes:
    """One event of about 190 bytes: the document's fax_new."""
    return (
        b'{"owner":"%s","message":"fax_new","fax":"af729cc0-3251-11e2-81c1-0800200c9a66",'
        b'"phone":"+492215587412","page_count":2}' % user.encode()
    )


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
    _running: list[Process] = field(default_factory=list)

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

    def backlog(self) -> int:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request("GET", "/metrics")
            for line in connection.getresponse().read().decode().splitlines():
                if line.startswith("tocsin_backlog_events "):
                    return int(float(line.split()[1]))
        finally:
            connection.close()
        return 0

    def start_server(self, **environment: str) -> float:
        """Start the server; returns how long it took until it listened."""
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        urls = self.emulator["apns"]
        own = {
            "TOCSIN_STORE__PATH": str(self.directory / "tocsin.db"),
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
                env=_environment() | own | environment,
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

    def stop_server(self) -> None:
        if self.server is not None:
            _stop(self.server)
            self._running.remove(self.server)
            self.server = None

    def close(self) -> None:
        for process in (*self._running, self.emulator_process):
            _stop(process)


def _environment() -> dict[str, str]:
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
        env=_environment(),
        stdout=subprocess.DEVNULL,
    )
    summary = directory / "emulator.json"
    while not summary.exists():
        if child.poll() is not None:
            raise RuntimeError("the emulator ended")
        time.sleep(0.02)
    return json.loads(summary.read_text()), Process(child)


@contextmanager
def staged(
    directory: Path, *, users: int, devices: int = 1, system: str = "apns", emulator_options: tuple[str, ...] = ()
) -> Iterator[Stage]:
    """Emulator up, users registered, credentials stored; the server is not started yet."""
    summary, process = start_emulator(directory / "emulator", *emulator_options)
    stage = Stage(directory, summary, process)
    try:
        asyncio.run(_furnish(stage, users, devices, system))
        yield stage
    finally:
        stage.close()


async def _furnish(stage: Stage, users: int, devices: int, system: str) -> None:
    settings = Settings(store=Store(path=stage.directory / "tocsin.db"))
    async with open_store(settings) as store:
        key = Path(stage.emulator["apns_key"]).read_text()
        application = Application(ApplicationId(APPLICATION), key, stage.emulator["key_id"])
        await store.applications.put_application(application)
        account = Path(stage.emulator["service_account"]).read_text()
        await store.applications.put_project(FcmProject(PROJECT, account, True))
        stage.producer_key, _ = await store.access.create_key(Role.PRODUCER, "benchmark", None)
        stage.sid, _ = await store.access.create_session(owner(0), None)  # type: ignore[arg-type]
        apns = system == "apns"
        for first in range(0, users, 2000):
            await asyncio.gather(
                *(
                    store.registry.add(
                        Device(
                            owner(user),
                            system,
                            f"{user:032x}{number:032x}" if apns else f"registration-token-{user}-{number}",
                            APPLICATION if apns else None,
                            False,
                            None,
                            user * 100 + number,
                        ),
                        100,
                    )
                    for user in range(first, min(users, first + 2000))
                    for number in range(devices)
                )
            )
