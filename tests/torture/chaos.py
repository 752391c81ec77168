"""Makes the server, its disk, the provider and the registry fail, one after the other, at random times."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from tests.torture.disk import Disk
from tests.torture.http_client import Client, NoResponse
from tests.torture.processes import Emulator, Server
from tests.torture.producers import Pace
from tests.torture.users import Device, User

Rule = dict[str, Any]
LEASE_S: Final = 12.5
_AFTER_1_S: Final = {"retry-after": "1"}

FAULTS: Final[dict[str, list[Rule]]] = {
    "503": [{"status": 503, "reason": "ServiceUnavailable", "headers": _AFTER_1_S, "rate": 0.5}],
    "503 without end": [{"status": 503, "headers": _AFTER_1_S}],
    "429": [{"status": 429, "reason": "TooManyRequests", "headers": _AFTER_1_S, "rate": 0.3}],
    "resets": [
        {"reset": 7, "rate": 0.1},
        {"reset": 2, "rate": 0.05},
        {"reset": 2, "processed": True, "rate": 0.05},
    ],
    "GOAWAY": [
        {"goaway": {"mode": "graceful", "every": 40}},
        {"goaway": {"mode": "mid", "every": 31}},
        {"goaway": {"mode": "immediate", "every": 57}},
    ],
    "cuts": [
        {"cut": "before_answer", "rate": 0.005},
        {"cut": "mid_headers", "rate": 0.005},
        {"cut": "before_answer", "processed": True, "rate": 0.005},
    ],
    "no answer": [{"no_answer": True, "rate": 0.1}, {"no_answer": True, "processed": True, "rate": 0.05}],
    "slow": [{"delay_s": 0.5, "rate": 0.5}],
    "TLS": [{"tls_fail": True}, {"goaway": {"mode": "immediate", "every": 25}}],
    "expired access tokens": [{"match": {"provider": "fcm"}, "expire_tokens": True, "times": 2}],
    "expired provider tokens": [
        {"match": {"provider": "apns"}, "status": 403, "reason": "ExpiredProviderToken", "times": 3}
    ],
}


class Chaos:
    """Counts what it does by name, for the report."""

    def __init__(
        self,
        server: Server,
        emulator: Emulator,
        disk: Disk,
        users: list[User],
        pace: Pace,
        rng: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._server = server
        self._emulator = emulator
        self._disk = disk
        self._users = users
        self._pace = pace
        self._rng = rng
        self._say = say
        self._calls = Client(server.port)
        port = int(emulator.summary["control"].rsplit(":", 1)[1])
        self._control = Client(port)
        self.counts: dict[str, int] = {}
        self.killed_at: list[float] = []
        self.stops: list[tuple[float, float]] = []
        """From when to when the server was stopped (SIGSTOP), each time for longer than its lease."""

    @property
    def kills(self) -> int:
        return len(self.killed_at)

    async def run(self, *, until: float, kills: int, long_stops: int) -> None:
        """Until that time (monotonic), and until the server was killed and stopped that often."""
        actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (4, self._pause_server),
            (2, self._pause_provider),
            (10, self._script_faults),
            (8, self._break_disk),
            (3, self._token_dies),
            (1, self._restart_provider),
            (1, self._flood),
        ]
        weights, others = [weight for weight, _ in actions], [action for _, action in actions]
        started = time.monotonic()
        while time.monotonic() < until or self.kills < kills or len(self.stops) < long_stops:
            passed = (time.monotonic() - started) / max(1.0, until - started)
            if len(self.stops) < long_stops * (passed - 0.1):
                await self._pause_server_for_long()
            elif self.kills < kills * passed and self._rng.random() < 0.7:
                await self.kill()
            else:
                await self._rng.choices(others, weights)[0]()
            await asyncio.sleep(self._rng.random() * 0.4)
        await self.end()

    async def end(self) -> None:
        """Let everything work again."""
        self._disk.mend()
        await self._script([])
        self._control.close()
        self._calls.close()

    async def kill(self) -> None:
        """SIGKILL the server and start it again; sometimes during its start, or while the provider fails."""
        if self._rng.random() < 0.3:
            await self._script(FAULTS[self._rng.choice(list(FAULTS))])
        self._kill("SIGKILL")
        if self._rng.random() < 0.15:
            await self._server.start(wait=False)
            await asyncio.sleep(self._rng.random() * 1.5)
            self._kill("SIGKILL while it starts")
        await self._script([])
        await self._server.start()

    def _kill(self, how: str) -> None:
        self._note(how)
        self._server.kill()
        # Taken after the kill: what it sent until then may not be on record.
        self.killed_at.append(time.time())

    async def _pause_server(self) -> None:
        await self._pause("SIGSTOP of the server", self._server, 0.2 + self._rng.random() * 1.5)

    async def _pause_server_for_long(self) -> None:
        """When it goes on, its leases have ended: it does not own what it had claimed, though responses have come."""
        await self._script(FAULTS["slow"])
        await asyncio.sleep(0.3)  # until much is in flight
        began = time.time()
        for_s = LEASE_S + 0.5 + self._rng.random()
        await self._pause("SIGSTOP of the server, longer than its lease", self._server, for_s)
        self.stops.append((began, time.time()))
        await self._script([])

    async def _pause_provider(self) -> None:
        await self._pause("SIGSTOP of the provider", self._emulator, 0.2 + self._rng.random() * 2.5)

    async def _pause(self, what: str, process: Server | Emulator, for_s: float) -> None:
        self._note(what)
        process.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
        finally:
            process.send(signal.SIGCONT)

    async def _script_faults(self) -> None:
        name = self._rng.choice(list(FAULTS))
        self._note(f"provider: {name}")
        await self._script(FAULTS[name])
        await asyncio.sleep(0.3 + self._rng.random() * 1.2)
        await self._script([])

    async def _break_disk(self) -> None:
        if not self._disk.kinds:
            return
        kind = self._rng.choice(self._disk.kinds)
        self._note(f"disk: {kind}")
        self._disk.break_(kind)
        await asyncio.sleep(0.3 + self._rng.random() * 1.5)
        if self._rng.random() < 0.4:
            self._kill("SIGKILL while the disk fails")
            await self._start_after(kind)
        self._disk.mend()

    async def _start_after(self, kind: str) -> None:
        """Half of the time the disk works again before the start; else the server starts while it fails."""
        if self._rng.random() < 0.5:
            self._disk.mend()
            await self._server.start()
            return
        self._note("starts while the disk fails")
        await self._server.start(wait=False)
        self._disk.break_(kind)  # a limit counts for one process only
        await asyncio.sleep(0.5 + self._rng.random() * 2.0)
        self._disk.mend()
        await self._server.ready()

    async def _token_dies(self) -> None:
        """The provider answers that a token is dead; after a while the app registers it again for each of its users."""
        _, device = self._changing_device()
        holders = [(user, own) for user in self._users for own in user.devices if own.token == device.token]
        if any(own.periods[-1].end_sent is not None or own.periods[-1].add_answered is None for _, own in holders):
            return
        self._note("tokens declared dead")
        for _, own in holders:
            own.periods[-1].end_sent = time.time()
        dead: Rule = {"match": {"token": device.token}, "status": 404, "reason": "UNREGISTERED"}
        if device.system == "apns":
            dead |= {"status": 410, "reason": "Unregistered", "timestamp": int(time.time() * 1000)}
        await self._script([dead])
        await asyncio.sleep(0.5 + self._rng.random())
        await self._script([])
        for user, own in holders:
            await user.register(self._calls, own)

    async def _restart_provider(self) -> None:
        self._note("restarts of the provider")
        await asyncio.to_thread(self._emulator.terminate)
        await asyncio.sleep(self._rng.random())
        await self._emulator.start()

    async def _flood(self) -> None:
        self._note("floods")
        self._pace.flooding = True
        await asyncio.sleep(0.5)
        self._pace.flooding = False

    async def change_tokens(self, finished: Callable[[], bool]) -> None:
        """Delete tokens and register them again, until `finished`."""
        client = Client(self._server.port)
        while not finished():
            user, device = self._changing_device()
            last = device.periods[-1]
            if last.deleted is not None:
                await user.register(client, device)
            elif last.end_sent is None:
                self._note("tokens deleted")
                await user.delete(client, device)
                await asyncio.sleep(self._rng.random())
                if self._rng.random() < 0.7:
                    await user.register(client, device)
            await asyncio.sleep(self._rng.random() * 0.5)
        client.close()

    def _changing_device(self) -> tuple[User, Device]:
        user = self._rng.choice([user for user in self._users if user.changes_tokens])
        return user, self._rng.choice(user.devices)

    async def _script(self, rules: list[Rule]) -> None:
        body = msgspec.json.encode({"rules": rules, "seed": self._rng.randrange(2**31)})
        for _ in range(50):
            try:
                response = await self._control.call("PUT", "/faults", body)
            except NoResponse:
                await asyncio.sleep(0.1)
                continue
            assert response.status == 200, response.body
            return
        raise AssertionError("the emulator's control API does not respond")

    def _note(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self._say(what)
