"""A console with a server and an emulator behind it, all processes; and what tests do to them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tocsin.cli.demo.environment import Environment, running_environment
from tocsin.cli.demo.users import APPLICATION_ID, USERS


class Service:
    """Emulator, server and console while they run."""

    def __init__(self, environment: Environment) -> None:
        assert environment.console_url is not None
        self.environment = environment
        self.console_url = environment.console_url
        self.admin_key = environment.secrets.admin_key
        self.control = str(environment.emulator["control"])
        self.apns_key = Path(environment.emulator["apns_key"])
        self.key_id = str(environment.emulator["key_id"])

    def faults(self, *rules: dict[str, Any]) -> None:
        """Make the emulator answer by these rules, and no others."""
        httpx.put(f"{self.control}/faults", json={"rules": list(rules)}, trust_env=False).raise_for_status()

    def repair(self) -> None:
        """Undo what a test has broken: no faults, and the key that the emulator knows."""
        self.faults()
        path = f"/api/admin/applications/{APPLICATION_ID}"
        if self.api("GET", "/api/admin/applications")[0].get("key_id") != self.key_id:
            self.api("PUT", path, {"key_pem": self.apns_key.read_text(), "key_id": self.key_id})

    def accepted(self) -> int:
        """How many pushes the emulator has accepted since it started."""
        return int(httpx.get(f"{self.control}/stats", trust_env=False).json()["accepted"])

    def received(self, token: str) -> list[dict[str, Any]]:
        """What a phone has received."""
        pushes: list[dict[str, Any]] = httpx.get(
            f"{self.control}/inbox", params={"token": token}, trust_env=False
        ).json()
        return pushes

    def api(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """A request to the server with the admin key, or another."""
        answer = httpx.request(
            method,
            f"{self.environment.url}{path}",
            json=body,
            headers={"authorization": f"Bearer {key or self.admin_key}"},
            timeout=60,
            trust_env=False,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def tocsin(self, *arguments: str) -> str:
        """Run a command beside the server, on its store; returns what it printed."""
        command = [sys.executable, "-m", "tocsin", *arguments, "--config", str(self.environment.config)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def key(self, *options: str) -> str:
        """A new admin key with these options of `tocsin key create`."""
        return self.tocsin("key", "create", "admin", *options)

    def send_many(self, events: list[dict[str, Any]]) -> None:
        """Send events as a backend does, in one request."""
        lines = b"\n".join(msgspec.json.encode(event) for event in events)
        headers = {
            "authorization": f"Bearer {self.environment.secrets.producer_key}",
            "content-type": "application/x-ndjson",
        }
        answer = httpx.post(
            f"{self.environment.url}/api/events", content=lines, headers=headers, timeout=60, trust_env=False
        )
        answer.raise_for_status()

    @staticmethod
    def until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.1)


def another_key(directory: Path) -> Path:
    """A key of the right form that the emulator does not know."""
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = directory / "AuthKey_ZZZZZZZZZZ.p8"
    file.write_bytes(key)
    return file


@contextmanager
def running_service() -> Iterator[Service]:
    """Emulator, server and console as `tocsin demo` runs them, with its phones registered, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="tocsin-") as directory, running_environment(Path(directory)) as running:
        for user in USERS:
            running.register(user)
        yield Service(running)
