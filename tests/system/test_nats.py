"""The server as a process, with events from NATS: killed in the middle, and without NATS at all."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.sources.bus import NORMAL, REFUSALS, STREAM, URGENT, Bus, bus_on
from tests.support.nats import NatsServer
from tests.system.running_system import RunningSystem, eventually
from tests.torture.http_client import Client

pytestmark = pytest.mark.slow


def settings_for(server: NatsServer) -> dict[str, dict[str, Any]]:
    return {
        "sources.nats": {
            "servers": [server.url],
            "stream": STREAM,
            "subjects": [NORMAL],
            "urgent_subjects": [URGENT],
            "refusals_subject": REFUSALS,
            "batch": 50,
            "ack_wait_s": 5,
        }
    }


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """It is not started yet."""
    server = NatsServer(tmp_path / "nats")
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def running(directory: Path, server: NatsServer) -> AsyncIterator[RunningSystem]:
    system = RunningSystem(directory / "system", settings_for(server))
    try:
        yield await system.open()
    finally:
        system.close()


def count(system: RunningSystem) -> int:
    with contextlib.closing(sqlite3.connect(system.server.database)) as database:
        (events,) = database.execute("SELECT count(*) FROM event").fetchone()
    return int(events)


async def notes(system: RunningSystem) -> list[str]:
    response = await system.health()
    assert response.status == 200, response
    found: list[str] = response.json().get("notes", [])
    return found


async def test_three_kills_in_the_middle_of_a_load_lose_nothing_and_take_nothing_twice(
    nats: NatsServer, tmp_path: Path
) -> None:
    await nats.start()
    async with bus_on(nats) as bus, running(tmp_path, nats) as system:
        user = await system.user()
        events = system.events(user, 2_000)
        for event in events:
            event.body = event.body.replace(f',"event_id":"{event.event_id}"'.encode(), b"")
            assert b"event_id" not in event.body
        publishing = asyncio.create_task(_publish(bus, [event.body for event in events]))
        for least in (200, 700, 1_200):
            await eventually(lambda least=least: count(system) >= least, 60, system.explain)
            system.server.kill()
            await system.server.start()
        await publishing
        await system.all_received(events, 60)
        await eventually(bus.is_done, 30, system.explain)
        assert count(system) == 2_000
        assert {len(set(ids)) for ids in system.received().values()} == {1}, "a duplicate with another apns-id"


async def _publish(bus: Bus, bodies: list[bytes]) -> None:
    for body in bodies:
        await bus.publish(body)


async def test_without_nats_http_ingest_and_delivery_do_not_notice_and_with_it_events_come(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with running(tmp_path, nats) as system:
        user = await system.user()
        await eventually(lambda: notes(system), 30, system.explain)
        assert (await notes(system))[0].startswith("nats: not connected: ")
        await system.all_received(await system.send(user, 100))
        await nats.start()
        async with bus_on(nats) as bus:
            events = system.events(user, 20)
            for event in events:
                await bus.publish(event.body)
            await system.all_received(events, 40)
            await eventually(lambda: _none(system), 30, system.explain)
        nats.kill()
        await system.all_received(await system.send(user, 100))
        await eventually(lambda: notes(system), 30, system.explain)
        private = Client(system.server.private_port)
        metrics = (await private.call("GET", "/metrics")).body.decode()
        private.close()
        assert 'tocsin_source_events_total{consumer="tocsin"} 20.0' in metrics
        assert 'tocsin_source_connected{source="nats"} 0.0' in metrics


async def _none(system: RunningSystem) -> bool:
    return await notes(system) == []


async def test_sigterm_ends_it_within_ten_seconds_and_what_is_in_hand_is_taken_after_the_next_start(
    nats: NatsServer, tmp_path: Path
) -> None:
    await nats.start()
    async with bus_on(nats) as bus, running(tmp_path, nats) as system:
        user = await system.user()
        events = system.events(user, 500)
        publishing = asyncio.create_task(_publish(bus, [event.body for event in events]))
        await eventually(lambda: count(system) >= 50, 30, system.explain)
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(system.server.terminate) == 0, system.explain()
        await publishing
        await system.server.start()
        await system.all_received(events, 40)
        assert count(system) == 500


async def test_without_the_clients_package_the_start_says_what_to_install(nats: NatsServer, tmp_path: Path) -> None:
    async with running(tmp_path, nats) as system:
        system.server.kill()
        without = tmp_path / "without" / "nats"
        without.mkdir(parents=True)
        (without / "__init__.py").write_text("raise ImportError(\"No module named 'nats'\", name='nats')\n")
        system.server.extra = {"PYTHONPATH": str(without.parent)}
        await system.server.start(wait=False)
        await eventually(lambda: not system.server.running, 30, system.explain)
        assert system.server.status == 1
        assert "pip install 'tocsin[nats]'" in system.explain()
