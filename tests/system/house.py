"""An emulator and a server as real processes, and what a test asks of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from tests.torture.disk import Disk
from tests.torture.ledger import HandedIn, Ledger, marker_of
from tests.torture.people import Device, User, new_owner
from tests.torture.processes import Provider, Server
from tests.torture.run import backlog, enroll
from tests.torture.wire import Answer, Client

EVENTS = "/api/events"


class House:
    """Both processes on fresh directories, with one application and one project."""

    def __init__(self, directory: Path, settings: dict[str, dict[str, Any]] | None = None) -> None:
        self.directory = directory
        self._settings = settings
        self._dice = random.Random(directory.name)
        self._read = 0
        self._arrived: dict[str, list[str]] = {}
        self.provider = Provider(directory / "emulator")
        self._processes: list[Provider | Server] = [self.provider]
        self.ledger = Ledger()

    async def open(self, *, users: int = 4, disk: bool = False) -> House:
        await self.provider.start()
        self.server = Server(self.directory / "server", self.provider, self._settings)
        self._processes.insert(0, self.server)
        self.disk = Disk(self.directory, self.server) if disk else None
        owners = [new_owner(self._dice) for _ in range(users)]
        sessions, self.secret = await enroll(self.server, self.provider, owners)
        self._users = [User(owner, session, []) for owner, session in sessions.items()]
        await self.server.start()
        return self

    def close(self) -> None:
        for process in self._processes:
            process.kill()

    def client(self) -> Client:
        return Client(self.server.port, self.secret)

    async def user(self, system: str = "apns") -> User:
        """One that nobody has used yet, with one device."""
        user = self._users.pop()
        token = f"{self._dice.getrandbits(256):064x}" if system == "apns" else f"fcm-{self._dice.getrandbits(99)}"
        user.devices.append(Device(user.owner, system, token))
        client = self.client()
        await user.register(client, user.devices[0])
        client.close()
        return user

    def events(self, user: User, count: int) -> list[HandedIn]:
        """Made, and not handed in; none that would expire within a test."""
        made: list[HandedIn] = []
        while len(made) < count:
            event = self.ledger.make(user.owner, self._dice, with_id=True)
            if not event.message.startswith("dialplan"):
                made.append(event)
        return made

    async def offer(self, events: Iterable[HandedIn]) -> Answer:
        client = self.client()
        try:
            body = b"\n".join(event.body for event in events)
            return await client.call("POST", EVENTS, body, "application/x-ndjson")
        finally:
            client.close()

    async def hand_in(self, user: User, count: int) -> list[HandedIn]:
        events = self.events(user, count)
        answer = await self.offer(events)
        assert answer.status == 202, answer
        return events

    async def faults(self, *rules: dict[str, Any]) -> None:
        control = Client(int(self.provider.summary["control"].rsplit(":", 1)[1]))
        answer = await control.call("PUT", "/faults", msgspec.json.encode({"rules": rules}))
        control.close()
        assert answer.status == 200, answer

    def arrived(self) -> dict[str, list[str]]:
        """The ids of the pushes that arrived, by the marker of their event."""
        if self.provider.journal.exists():
            with self.provider.journal.open("rb") as journal:
                journal.seek(self._read)
                for line in journal:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    push = msgspec.json.decode(line)
                    self._arrived.setdefault(marker_of(push["data"]), []).append(push["id"])
        return self._arrived

    async def all_arrive(self, events: Iterable[HandedIn], within_s: float = 20.0) -> None:
        await eventually(lambda: {event.marker for event in events} <= self.arrived().keys(), within_s, self.explain)

    def explain(self) -> str:
        return self.server.last_lines()

    async def get(self, path: str) -> Answer:
        client = self.client()
        try:
            return await client.call("GET", path)
        finally:
            client.close()

    async def problems(self) -> list[str]:
        """What makes it not ready; empty where it is."""
        answer = await self.get("/health/ready")
        assert (answer.status == 200) == answer.json()["ready"]
        problems: list[str] = answer.json()["problems"]
        return problems

    async def backlog(self) -> int:
        client = self.client()
        try:
            return await backlog(client)
        finally:
            client.close()


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
