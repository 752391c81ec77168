"""pushy's mock of APNs as a process: it judges what our sender sends, by another project's reading of Apple's rules.

It refuses what Apple documents as wrong: the method, the path, the topic, the push type, the priority, the ids, the
size, and the provider token with its key, team, age and signature.
"""

from __future__ import annotations

import asyncio
import base64
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct
from tests.judges import packages

from tocsin.emulator.credentials import TEAM_ID, Files, write_credentials, write_service_account

START_TIMEOUT_S: Final = 60.0
ENVIRONMENTS: Final = ("production", "sandbox")


class Push(Struct, frozen=True):
    """One push that arrived. `reason`: why it was refused; empty where it was accepted."""

    environment: str
    token: str
    headers: dict[str, str]
    payload: Any
    reason: str = ""

    @property
    def id(self) -> str:
        return self.headers["apns-id"]


class MockApple:
    """Production and sandbox, with the credentials that an emulator would have; what arrived is in `pushes`."""

    def __init__(self, directory: Path, command: list[str], class_path: str, topics: frozenset[str]) -> None:
        """`command`: that of `packages.java`; `topics`: those that the key may push to."""
        self.pushes: list[Push] = []
        self._command = [*command, "-cp", class_path, str(packages.HERE / "java" / "ApnsServer.java")]
        self._topics = topics
        self._files = write_credentials(directory)
        write_service_account(self._files, "https://localhost:1/token")
        self._public_key = directory / "public.pem"
        self._public_key.write_bytes(_public_key(self._files))
        self._log = directory / "pushy.log"
        self._ports: dict[str, int] = {}
        self._told: list[str] = []
        self._written = self._obeyed = 0
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """What a server needs to know, as the emulator says it in `emulator.json`."""
        apns = {environment: f"https://localhost:{self._ports[environment]}" for environment in ENVIRONMENTS}
        files = self._files
        return {
            "apns": apns,
            "fcm": "https://localhost:1",
            "ca": str(files.ca),
            "apns_key": str(files.apns_key),
            "key_id": files.key_id,
            "service_account": str(files.service_account),
        }

    async def start(self, *, streams: int = 1000) -> None:
        """Start the process and both servers; `streams`: how many each allows at a time on a connection."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    *(str(self._files.server), str(self._public_key)),
                    *(TEAM_ID, self._files.key_id, ",".join(sorted(self._topics))),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._written = self._obeyed = 0
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        for line in self._told:
            self._write(line)
        for environment in ENVIRONMENTS:
            await self.restart(environment, streams=streams)

    async def restart(self, environment: str, *, streams: int = 1000) -> None:
        """End its connections with GOAWAY, each after its last answer, and listen again at the same port."""
        self._write(f"{environment} start {streams} {self._ports.get(environment, 0)}")
        await self.obeys()

    async def obeys(self) -> None:
        """Wait until it has done everything that it was told."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._obeyed < self._written:
            assert self._process is not None
            assert self._process.poll() is None, f"pushy has ended\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"pushy did not answer within {START_TIMEOUT_S} s"
            await asyncio.sleep(0.005)

    async def kill_and_start(self) -> None:
        """End it as a crash would, and start it anew at the same ports; it knows the same tokens."""
        self.close()
        await self.start()

    def knows(self, token: str, topic: str, environment: str = "production") -> None:
        """The token is one of an app with this topic."""
        self._tell(environment, "good", topic, token)

    def says_gone(self, token: str, since_ms: int, environment: str = "production") -> None:
        """410 Unregistered, since this time."""
        self._tell(environment, "gone", token, str(since_ms))

    def says_bad(self, token: str, environment: str = "production") -> None:
        """400 BadDeviceToken."""
        self._tell(environment, "bad", token)

    def accepted(self) -> dict[str, list[Push]]:
        """The accepted pushes of `fax_new` by their fax."""
        by_fax: dict[str, list[Push]] = {}
        for push in list(self.pushes):
            if not push.reason:
                by_fax.setdefault(push.payload["fax"], []).append(push)
        return by_fax

    def refused(self, token: str) -> list[Push]:
        return [push for push in list(self.pushes) if push.token == token and push.reason]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join()

    def _tell(self, *words: str) -> None:
        self._told.append(" ".join(words))
        self._write(self._told[-1])

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._written += 1
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            environment, what, more, *fields = line.rstrip("\n").split("\t")
            if what == "listening":
                self._ports[environment] = int(more)
                continue
            if what == "obeyed":
                self._obeyed += 1
                continue
            headers = dict(field.split("=", 1) for field in fields)
            payload = msgspec.json.decode(base64.b64decode(more)) if what == "accepted" else None
            token = headers[":path"].rsplit("/", 1)[1]
            self.pushes.append(Push(environment, token, headers, payload, more if what == "rejected" else ""))


def _public_key(files: Files) -> bytes:
    key: Any = serialization.load_pem_private_key(files.apns_key.read_bytes(), None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
