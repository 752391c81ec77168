"""The server or the provider is killed; every accepted event arrives."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest

from tests.system.running_system import RunningSystem
from tests.torture.http_client import NoResponse
from tests.torture.sent_events import SentEvent


@pytest.mark.parametrize("provider_is", ["down", "answering 503"])
async def test_a_thousand_events_that_waited_when_the_server_was_killed_arrive_after_its_next_start(
    system: RunningSystem, provider_is: str
) -> None:
    user = await system.user()
    if provider_is == "down":
        system.emulator.terminate()
    else:
        await system.faults({"status": 503})
    events = await system.send(user, 1000)
    system.server.kill()
    assert not system.received()
    if provider_is == "down":
        await system.emulator.start()
    await system.faults()
    await system.server.start()
    await system.all_received(events)
    assert all(len(ids) == 1 for ids in system.received().values())


async def test_ten_kills_in_a_row_in_the_middle_of_a_load_lose_nothing(system: RunningSystem) -> None:
    user = await system.user()
    rng = random.Random(10)
    accepted: list[SentEvent] = []
    finished = False

    async def load() -> None:
        while not finished:
            events = system.events(user, rng.randint(1, 30))
            while True:  # the same ids again, until there is a response
                with contextlib.suppress(NoResponse):
                    if (await system.post(events)).status == 202:
                        accepted.extend(events)
                        break
                await asyncio.sleep(0.02)

    loading = asyncio.create_task(load())
    for number in range(10):
        if number % 3:
            await asyncio.sleep(rng.random())  # while it starts, or just after
        else:
            await system.server.ready()
            await asyncio.sleep(0.1 + 0.3 * rng.random())
        system.server.kill()
        await system.server.start(wait=False)
    await system.server.ready()
    finished = True
    await loading
    assert len(accepted) > 100
    await system.all_received(accepted)
    for ids in system.received().values():
        assert len(set(ids)) == 1, "a duplicate with another apns-id"


async def test_sigterm_ends_it_within_ten_seconds_while_the_provider_never_answers_and_nothing_is_lost(
    system: RunningSystem,
) -> None:
    user = await system.user()
    await system.faults({"no_answer": True})
    events = await system.send(user, 300)
    await asyncio.sleep(0.5)
    started = time.monotonic()
    status = await asyncio.to_thread(system.server.terminate)
    assert status == 0, system.explain()
    assert time.monotonic() - started < 10
    await system.faults()
    await system.server.start()
    await system.all_received(events)


async def test_a_provider_that_restarts_in_the_middle_gets_everything(system: RunningSystem) -> None:
    user = await system.user("fcm")
    events = await system.send(user, 300)
    system.emulator.terminate()
    events += await system.send(user, 300)
    await system.emulator.start()
    events += await system.send(user, 300)
    await system.all_received(events, 30)
