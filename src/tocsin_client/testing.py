"""For a backend's own tests: a real tocsin before an emulated Apple and Google, and phones that say what rang.

It needs `tocsin` itself in the test environment (`pip install tocsin-client[testing]`).
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from tocsin_client.client import Client

APPLICATION_ID: Final = "39JSDKGJ38.de.cospace.app"
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 12.0
_LOOK_EVERY_S: Final = 0.02
_SETTINGS: Final = "TOCSIN_"


class Phone:
    """A device that is registered for a user. `system` is `apns` or `fcm`."""

    def __init__(self, server: LocalTocsin, system: str, token: str) -> None:
        self._server = server
        self.system = system
        self.token = token

    def received(self, message: str | None = None) -> list[dict[str, Any]]:
        """What has arrived so far, oldest first, of one event or of all: APNs bodies, or FCM's `data`."""
        pushes = self._server.inbox(self.token)
        contents = [push["body"]["message"]["data"] if self.system == "fcm" else push["body"] for push in pushes]
        return [content for content in contents if message in (None, content.get("message"))]

    def wait_for(self, message: str, *, count: int = 1, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """What has arrived of this event (`fax_new`), as soon as it is `count` pushes.

        Raises:
            AssertionError: fewer have arrived within `timeout_s`; it says what has arrived instead.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.received(message)
            if len(found) >= count:
                return found
            if time.monotonic() > deadline:
                others = [content.get("message") for content in self.received()]
                raise AssertionError(f"{len(found)} of {count} {message} within {timeout_s:g} s; arrived: {others}")
            time.sleep(_LOOK_EVERY_S)


class User:
    """A user of the platform, signed in: `sid` is the session with which the user's app calls `/api/push`."""

    def __init__(self, server: LocalTocsin, id: UUID, sid: str) -> None:
        self._server = server
        self.id = id
        self.sid = sid

    def add_iphone(self, *, sandbox: bool = False) -> Phone:
        """Register a new APNs device token, as the user's app does."""
        token = secrets.token_hex(32)
        self._register(system="apns", device_token=token, application_id=APPLICATION_ID, sandbox=sandbox)
        return Phone(self._server, "apns", token)

    def add_android(self) -> Phone:
        """Register a new FCM token, as the user's app does."""
        token = f"test-{secrets.token_hex(32)}"
        self._register(system="fcm", device_token=token)
        return Phone(self._server, "fcm", token)

    def remove(self, phone: Phone) -> None:
        """Delete the phone's token, as the user's app does."""
        self._push(action="delete", system=phone.system, device_token=phone.token)

    def _register(self, **registration: Any) -> None:
        self._push(action="add", **registration)

    def _push(self, **body: Any) -> None:
        answer = httpx.post(f"{self._server.url}/api/push", json=body, headers={"authorization": f"Bearer {self.sid}"})
        if answer.status_code != 200 or answer.json():
            raise RuntimeError(f"the registration was refused: {answer.text}")


class LocalTocsin:
    """A running tocsin: `url` and `key` are what the backend under test is configured with."""

    def __init__(self, url: str, key: str, emulator: dict[str, Any], config: Path) -> None:
        self.url = url
        self.key = key
        self._emulator = emulator
        self._config = config

    def client(self) -> Client:
        """A client with the producer key, to be closed by whoever asks for it."""
        return Client(self.url, self.key, give_up_after_s=10.0)

    def add_user(self, id: UUID | None = None) -> User:
        """A user who is signed in, with a new id unless one is given."""
        id = id or uuid4()
        return User(self, id, _run(self._config, "session", "create", "--owner", str(id)))

    def inbox(self, token: str | None = None) -> list[dict[str, Any]]:
        """All that the emulated Apple and Google have accepted, oldest first, as the emulator tells it."""
        parameters = {} if token is None else {"token": token}
        return list(httpx.get(f"{self._emulator['control']}/inbox", params=parameters).json())

    def set_faults(self, *rules: dict[str, Any]) -> None:
        """Have the emulated Apple and Google answer with errors, by the rules of the emulator's fault scripts; none:
        all is well again.

        Raises:
            ValueError: a rule is not valid.
        """
        answer = httpx.put(f"{self._emulator['control']}/faults", json={"rules": list(rules)})
        if answer.status_code != 200:
            raise ValueError(answer.json()["error"])


@contextmanager
def local_tocsin(directory: Path) -> Iterator[LocalTocsin]:
    """Run a server and an emulator on 127.0.0.1 until the block ends, with all their files in the empty `directory`.

    Raises:
        RuntimeError: one did not start; the message has the end of its log.
    """
    summary, ready, config = directory / "emulator" / "emulator.json", directory / "ready", directory / "tocsin.toml"
    with ExitStack() as children:
        children.enter_context(_running(summary, "emulator", "--directory", str(summary.parent)))
        emulator = json.loads(summary.read_bytes())
        config.write_text(_configuration(directory, emulator))
        _run(config, "app", "add", APPLICATION_ID, "--key", emulator["apns_key"], "--key-id", emulator["key_id"])
        _run(config, "fcm", "add", "--service-account", emulator["service_account"])
        key = _run(config, "key", "create", "producer", "--name", "tests")
        children.enter_context(_running(ready, "serve", "--config", str(config), "--ready-file", str(ready)))
        yield LocalTocsin(ready.read_text().strip(), key, emulator, config)


def _configuration(directory: Path, emulator: dict[str, Any]) -> str:
    quoted = {
        "store": json.dumps(str(directory / "tocsin.db")),
        "production": json.dumps(emulator["apns"]["production"]),
        "sandbox": json.dumps(emulator["apns"]["sandbox"]),
        "fcm": json.dumps(emulator["fcm"]),
        "ca": json.dumps(emulator["ca"]),
    }
    return """[server]
port = 0
[store]
path = {store}
[apns]
production_url = {production}
sandbox_url = {sandbox}
ca_file = {ca}
[fcm]
url = {fcm}
ca_file = {ca}
""".format(**quoted)


def _environment() -> dict[str, str]:
    """The environment without settings of tocsin: they would override those of the test."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(_SETTINGS)}


def _run(config: Path, *arguments: str) -> str:
    """Run one command of tocsin; returns what it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "tocsin", *arguments, "--config", str(config)],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=_START_TIMEOUT_S,
    )
    if ended.returncode:
        raise RuntimeError(f"tocsin {' '.join(arguments[:2])}: {ended.stderr.strip()}")
    return ended.stdout.strip()


@contextmanager
def _running(ready: Path, *arguments: str) -> Iterator[None]:
    """Run a tocsin that writes the file `ready` when it listens. It ends with the block, and with this process."""
    log = ready.parent.parent / f"{arguments[0]}.log" if arguments[0] == "emulator" else ready.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tocsin.cli.child", *arguments],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"tocsin {arguments[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(_LOOK_EVERY_S)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
