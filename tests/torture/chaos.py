"""Makes the server, its disk, the provider and the registry fail, one after the other, at random times."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tests.torture.disk import Disk
from tests.torture.processes import Emulator, Server
from tests.torture.producers import Pace
from tests.torture.provider import FAULTS, Provider
from tests.torture.tokens import Tokens
from tests.torture.users import User

LEASE_S: Final = 12.5


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
        self._pace = pace
        self._rng = rng
        self._say = say
        self._provider = Provider(emulator, rng)
        self.tokens = Tokens(server.port, users, self._provider, rng, self._note)
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
            (3, self.tokens.die),
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
        await self._provider.script([])
        self._provider.close()

    async def kill(self) -> None:
        """SIGKILL the server and start it again; sometimes during its start, or while the provider fails."""
        if self._rng.random() < 0.3:
            await self._provider.script(FAULTS[self._rng.choice(list(FAULTS))])
        self._kill("SIGKILL")
        if self._rng.random() < 0.15:
            await self._server.start(wait=False)
            await asyncio.sleep(self._rng.random() * 1.5)
            self._kill("SIGKILL while it starts")
        await self._provider.script([])
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
        await self._provider.script(FAULTS["slow"])
        await asyncio.sleep(0.3)  # until much is in flight
        began = time.time()
        for_s = LEASE_S + 0.5 + self._rng.random()
        await self._pause("SIGSTOP of the server, longer than its lease", self._server, for_s)
        self.stops.append((began, time.time()))
        await self._provider.script([])

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
        await self._provider.script(FAULTS[name])
        await asyncio.sleep(0.3 + self._rng.random() * 1.2)
        await self._provider.script([])

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

    def _note(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self._say(what)
