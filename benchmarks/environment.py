"""A server and an emulator as real processes in a new directory, with registered users."""

from __future__ import annotations

import asyncio
import base64
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

from tocsin.domain.devices import Address, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.providers.apns.address import ApnsAddress
from tocsin.providers.apns.credentials import ApnsCredential
from tocsin.providers.fcm.credentials import stored
from tocsin.settings import Secrets, Settings, Store
from tocsin.store.opening import open_store
from tocsin.store.ports import Registry
from tocsin.store.records import Learned, Role

APPLICATION = "39JSDKGJ38.de.cospace.app"
FAILING = "39JSDKGJ38.de.cospace.failing"
SILENT = "39JSDKGJ38.de.cospace.silent"
PROJECT = "tocsin-emulator"
_REGISTERED_AT_ONCE = 2000
_CPUCLOCK_SCHED = 2


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
    """Whether a success is on record for each device: the first one of a day costs a write of the device's page."""


@dataclass
class Process:
    """A child process, with its CPU time and memory as the kernel counts them."""

    child: subprocess.Popen[Any]

    @property
    def pid(self) -> int:
        return self.child.pid

    def cpu_s(self) -> float:
        """User and system time of all its threads so far: its CPU-time clock, as `clock_getcpuclockid(3)` names it.

        `/proc/PID/stat` has the same in steps of 10 ms.
        """
        return time.clock_gettime((~self.pid << 3) | _CPUCLOCK_SCHED)

    def _status_mib(self, name: str) -> float:
        line = next(line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    def peak_mib(self) -> float:
        return self._status_mib("VmHWM")

    def resident_mib(self) -> float:
        return self._status_mib("VmRSS")


@dataclass
class Environment:
    """An emulator, a database with users and credentials, and the server once it is started."""

    directory: Path
    emulator: dict[str, Any]
    emulator_process: Process
    producer_key: str = ""
    monitoring_key: str = ""
    sid: str = ""
    url: str = ""
    server: Process | None = None
    """The one that was started last."""
    store_url: str = ""
    """Empty: the embedded store, in this directory."""
    groups: list[range] = field(default_factory=list)
    """The numbers of each group's users."""
    _running: list[Process] = field(default_factory=list)
    _addresses: list[tuple[str, int]] = field(default_factory=list)
    """Of the servers that run."""

    @property
    def settings(self) -> Settings:
        """For a store that is opened in this process."""
        url = self.store_url or f"sqlite:{self.directory / 'tocsin.db'}"
        return Settings(store=Store(url=url), secrets=Secrets(key_file=self.directory / "master.key"))

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
        """How many pushes the emulator has accepted so far."""
        count: int = self.control("GET", "/stats")["accepted"]
        return count

    def metric(self, name: str) -> float:
        """One of the metrics, of all servers together; 0 where there is none of this name yet."""
        return sum(self._metric(address, name) for address in self._addresses)

    def _metric(self, address: tuple[str, int], name: str) -> float:
        connection = http.client.HTTPConnection(*address, timeout=30)
        try:
            connection.request("GET", "/metrics", headers={"authorization": f"Bearer {self.monitoring_key}"})
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
        """Wait until `count` has reached `least`."""
        ends = time.perf_counter() + timeout_s
        while (found := count()) < least:
            if time.perf_counter() > ends:
                raise RuntimeError(f"only {found} of {least} within {timeout_s:g} s")
            time.sleep(0.01)

    def start_server(self, *, beside: bool = False, **variables: str) -> float:
        """Start the server, or one more `beside` those that run; returns how long it took until it listened."""
        if not beside:
            self._addresses.clear()
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        urls = self.emulator["apns"]
        own = {
            "TOCSIN_STORE__URL": self.settings.store.url or "",
            "TOCSIN_SECRETS__KEY_FILE": str(self.settings.secrets.key_file),
            "TOCSIN_SERVER__PORT": "0",
            "TOCSIN_APNS__PRODUCTION_URL": urls["production"],
            "TOCSIN_APNS__SANDBOX_URL": urls["sandbox"],
            "TOCSIN_APNS__CA_FILE": self.emulator["ca"],
            "TOCSIN_FCM__URL": self.emulator["fcm"],
            "TOCSIN_FCM__CA_FILE": self.emulator["ca"],
            # Limits that are counted, and not reached.
            "TOCSIN_LIMITS__USER_PER_MINUTE": "1000000000",
            "TOCSIN_LIMITS__KEY_PER_S": "1000000000",
        }
        started = time.perf_counter()
        with (self.directory / "server.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "tocsin", "serve", "--ready-file", str(ready)],
                env=child_variables() | own | variables,
                stdout=log,
                stderr=log,
            )
        self.server = Process(child)
        self._running.append(self.server)
        self.url = address_of(child, ready, self.directory / "server.log")
        self._addresses.append(self.address)
        return time.perf_counter() - started

    def pause(self) -> None:
        """Stop the server (SIGSTOP), so that another one can be measured."""
        assert self.server is not None
        self.server.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.server is not None
        self.server.child.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in (*self._running, self.emulator_process):
            _stop(process)


def address_of(child: subprocess.Popen[Any], ready: Path, log: Path) -> str:
    """What a child process writes into its ready file, as soon as it listens. Raises RuntimeError: it has ended."""
    while not (ready.exists() and ready.read_text().strip()):
        if child.poll() is not None:
            raise RuntimeError(f"it ended: {log.read_text()[-2000:]}")
        time.sleep(0.01)
    return ready.read_text().strip()


def child_variables() -> dict[str, str]:
    """The environment variables of child processes: the path of this checkout's code, and no settings of tocsin."""
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
        env=child_variables(),
        stdout=subprocess.DEVNULL,
    )
    summary = directory / "emulator.json"
    while not summary.exists():
        if child.poll() is not None:
            raise RuntimeError("the emulator ended")
        time.sleep(0.02)
    return json.loads(summary.read_text()), Process(child)


@contextmanager
def prepared(groups: Sequence[Group], *emulator_options: str, store_url: str = "") -> Iterator[Environment]:
    """A running emulator, registered users and stored credentials in a temporary directory; no server yet.

    Args:
        store_url: an empty database on PostgreSQL; the embedded store where there is none.
    """
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as directory:
        summary, process = start_emulator(Path(directory) / "emulator", *emulator_options)
        environment = Environment(Path(directory), summary, process, store_url=store_url)
        (environment.directory / "master.key").write_text(base64.b64encode(os.urandom(32)).decode())
        (environment.directory / "master.key").chmod(0o600)
        try:
            asyncio.run(_fill(environment, groups))
            yield environment
        finally:
            environment.close()


async def _fill(environment: Environment, groups: Sequence[Group]) -> None:
    async with open_store(environment.settings) as store:
        key = ApnsCredential(Path(environment.emulator["apns_key"]).read_text(), environment.emulator["key_id"])
        for application in sorted({group.application for group in groups} | {APPLICATION}):
            await store.credentials.put(key.stored(application, 0))
        account = Path(environment.emulator["service_account"]).read_bytes()
        await store.credentials.put(stored(PROJECT, account, default=True, changed_ms=0))
        environment.producer_key, _ = await store.access.create_key(Role.PRODUCER, "benchmark", None)
        environment.monitoring_key, _ = await store.access.create_key(Role.MONITORING, "benchmark", None)
        environment.sid, _ = await store.access.create_session(owner(0), None)
        first = 0
        for group in groups:
            users = range(first, first + group.users)
            environment.groups.append(users)
            first = users.stop
            for start in range(users.start, users.stop, _REGISTERED_AT_ONCE):
                await _register(store.registry, group, range(start, min(users.stop, start + _REGISTERED_AT_ONCE)))


async def _register(registry: Registry, group: Group, users: range) -> None:
    registrations = [_registration(group, user, number) for user in users for number in range(group.devices)]
    await asyncio.gather(*(registry.add(registration, 100) for registration in registrations))
    if group.reached:
        now_ms = int(time.time() * 1000)
        found = await registry.devices_of([owner(user) for user in users])
        await registry.learn([Learned(device, None, now_ms) for devices in found.values() for device in devices])


def _registration(group: Group, user: int, number: int) -> Registration:
    if group.system == "apns":
        address = ApnsAddress(group.application).text()
        return Registration(owner(user), "apns", DeviceToken(token(user, number)), address)
    return Registration(owner(user), "fcm", DeviceToken(f"registration-token-{user}-{number}"), Address(""))
