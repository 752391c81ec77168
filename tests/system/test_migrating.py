"""The cut-over of docs/scale.md, as it is written there: from one server on SQLite to a server on PostgreSQL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

import asyncpg

from tests.support.postgres import MASTER_KEY, fetch
from tests.system.running_system import RunningSystem, eventually
from tests.torture.http_client import NoResponse
from tests.torture.processes import environment
from tests.torture.sent_events import SentEvent
from tests.torture.users import User


class Producer:
    """A backend that repeats each batch, with its ids, until it is accepted."""

    def __init__(self, system: RunningSystem, user: User) -> None:
        self._system = system
        self._user = user
        self.accepted: list[SentEvent] = []
        self.refusals = 0
        self.enough = asyncio.Event()

    async def run(self) -> None:
        while not self.enough.is_set():
            events = self._system.events(self._user, 5)
            while not await self._is_accepted(events):
                self.refusals += 1
                await asyncio.sleep(0.05)
            self.accepted += events
            await asyncio.sleep(0.02)

    async def _is_accepted(self, events: list[SentEvent]) -> bool:
        try:
            response = await self._system.post(events)
        except NoResponse:
            return False
        assert response.status in (202, 503), response
        return response.status == 202


async def has_begun(database: str) -> bool:
    try:
        return bool(await fetch(database, "SELECT 1 FROM meta WHERE name LIKE 'mov%'"))
    except asyncpg.UndefinedTableError:
        return False


async def last_audit_entry(database: str) -> bytes:
    ((text,),) = await fetch(database, "SELECT text FROM audit ORDER BY seq DESC LIMIT 1")
    return bytes(text)


async def test_every_event_that_is_accepted_during_a_cut_over_to_postgresql_arrives_once(
    tmp_path: Path, database: str
) -> None:
    system = RunningSystem(tmp_path, {"secrets": {"key": MASTER_KEY}})
    try:
        await system.open()
        users = [await system.user(), await system.user("fcm"), await system.user()]
        producers = [Producer(system, user) for user in users[:2]]
        running = [asyncio.create_task(producer.run()) for producer in producers]
        await eventually(lambda: len(system.received()) > 100, 30)
        # What cannot be delivered at present moves with the rest.
        busy = {"status": 429, "reason": "TooManyRequests", "headers": {"retry-after": "4"}}
        await system.faults(busy | {"match": {"token": users[2].devices[0].token}})
        waiting = await system.send(users[2], 10)
        await asyncio.sleep(1)

        assert await asyncio.to_thread(system.server.terminate) == 0
        source = f"sqlite:{system.server.database}"
        system.server.configure(system.emulator, {"store": {"url": database}, "secrets": {"key": MASTER_KEY}})
        migrate = ["store", "migrate", "--from", source, "--to", database]
        killed = subprocess.Popen(
            [sys.executable, "-m", "tocsin.cli", *migrate, "--config", str(system.server.config)],
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        await eventually(lambda: has_begun(database), 30)
        killed.kill()
        killed.wait()
        ended = await asyncio.to_thread(system.server.run_cli, *migrate)
        assert ended.returncode == 0, ended.stderr
        assert "name that with store.url, and start" in ended.stderr

        assert all(producer.refusals for producer in producers), "nobody has accepted anything meanwhile"
        await system.faults()
        await system.server.start()
        before = sum(len(producer.accepted) for producer in producers)
        await eventually(lambda: sum(len(producer.accepted) for producer in producers) > before + 50, 30)
        for producer in producers:
            producer.enough.set()
        await asyncio.gather(*running)
        accepted = [event for producer in producers for event in producer.accepted] + waiting
        await system.all_received(accepted, 120)
        await asyncio.sleep(1)
        counts = Counter({marker: len(ids) for marker, ids in system.received().items()})
        assert {event.marker: counts[event.marker] for event in accepted if counts[event.marker] != 1} == {}
        # A repeat after the move is known as one: the ids have moved, too.
        early = producers[0].accepted[:5]
        assert (await system.post(early)).status == 202
        assert b"store.migrate" in await last_audit_entry(database)
        await asyncio.sleep(1)
        assert all(len(system.received()[event.marker]) == 1 for event in early)
        assert await system.problems() == []
    finally:
        system.close()
