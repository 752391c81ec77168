"""An emulator and a server as real processes, and what a test does with them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from tests.torture.disk import Disk
from tests.torture.http_client import Client, Response
from tests.torture.journal import JournalReader
from tests.torture.processes import Emulator, Server
from tests.torture.run import prepare
from tests.torture.sent_events import SentEvent, SentEvents, marker_of
from tests.torture.users import Device, User, new_owner

EVENTS = "/api/events"


class RunningSystem:
    """Both processes on fresh directories, with one application and one project."""

    def __init__(self, directory: Path, settings: dict[str, dict[str, Any]] | None = None) -> None:
        self.directory = directory
        self._settings = settings
        self._rng = random.Random(directory.name)
        self._received: dict[str, list[str]] = {}
        self.emulator = Emulator(directory / "emulator")
        self._journal = JournalReader(self.emulator.journal)
        self._processes: list[Emulator | Server] = [self.emulator]
        self._sent = SentEvents()

    async def open(self, *, users: int = 4, disk: bool = False) -> RunningSystem:
        """Start both; `disk`: with a disk that can be made to fail."""
        await self.emulator.start()
        self.server = Server(self.directory / "server", self.emulator, self._settings)
        self._processes.insert(0, self.server)
        self.disk = Disk(self.directory, self.server) if disk else None
        owners = [new_owner(self._rng) for _ in range(users)]
        sessions, self.secret = await prepare(self.server, self.emulator, owners)
        self._users = [User(owner, session, []) for owner, session in sessions.items()]
        await self.server.start()
        return self

    def close(self) -> None:
        for process in self._processes:
            process.kill()

    def client(self) -> Client:
        return Client(self.server.port, self.secret)

    async def user(self, system: str = "apns") -> User:
        """A user that no other test has, with one device."""
        user = self._users.pop()
        token = f"{self._rng.getrandbits(256):064x}" if system == "apns" else f"fcm-{self._rng.getrandbits(99)}"
        user.devices.append(Device(user.owner, system, token))
        client = self.client()
        await user.register(client, user.devices[0])
        client.close()
        return user

    def events(self, user: User, count: int) -> list[SentEvent]:
        """Events that are not sent yet; none of them would expire within a test."""
        made: list[SentEvent] = []
        while len(made) < count:
            event = self._sent.make(user.owner, self._rng, with_id=True)
            if not event.message.startswith("dialplan"):
                made.append(event)
        return made

    async def post(self, events: Iterable[SentEvent]) -> Response:
        """Send them in one request; returns the response, whatever it is."""
        client = self.client()
        try:
            body = b"\n".join(event.body for event in events)
            return await client.call("POST", EVENTS, body, "application/x-ndjson")
        finally:
            client.close()

    async def send(self, user: User, count: int) -> list[SentEvent]:
        """Send `count` new events, which must be accepted."""
        events = self.events(user, count)
        response = await self.post(events)
        assert response.status == 202, response
        return events

    async def faults(self, *rules: dict[str, Any]) -> None:
        """Replace the emulator's fault script."""
        control = Client(int(self.emulator.summary["control"].rsplit(":", 1)[1]))
        response = await control.call("PUT", "/faults", msgspec.json.encode({"rules": rules}))
        control.close()
        assert response.status == 200, response

    def received(self) -> dict[str, list[str]]:
        """The ids of the pushes that were received, by the marker of their event."""
        for push in self._journal.read_new():
            self._received.setdefault(marker_of(push["data"]), []).append(push["id"])
        return self._received

    async def all_received(self, events: Iterable[SentEvent], within_s: float = 20.0) -> None:
        """Wait until a push was received for each of these events."""
        await eventually(lambda: {event.marker for event in events} <= self.received().keys(), within_s, self.explain)

    def explain(self) -> str:
        """For the message of an assertion: the end of the server's log."""
        return self.server.last_lines()

    async def get(self, path: str) -> Response:
        return await self._get(self.client(), path)

    async def health(self) -> Response:
        """Whether it is ready, and why not: from the private address."""
        return await self._get(Client(self.server.private_port), "/health/ready")

    async def _get(self, client: Client, path: str) -> Response:
        try:
            return await client.call("GET", path)
        finally:
            client.close()

    async def problems(self) -> list[str]:
        """Why it is not ready; empty where it is."""
        response = await self.health()
        assert (response.status == 200) == response.json()["ready"]
        problems: list[str] = response.json()["problems"]
        return problems


async def eventually(holds: Callable[[], Any], within_s: float, explain: Callable[[], str] = str) -> None:
    """Wait until `holds()`, which may be a coroutine function, is true."""
    deadline = time.monotonic() + within_s
    while True:
        held = holds()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"not within {within_s} s\n{explain()}"
        await asyncio.sleep(0.03)
