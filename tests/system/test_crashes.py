"""Processes die, on both sides; what was accepted arrives."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest

from tests.system.house import House
from tests.torture.ledger import HandedIn
from tests.torture.wire import NoAnswer


@pytest.mark.parametrize("provider_is", ["down", "answering 503"])
async def test_a_thousand_events_that_waited_when_the_server_was_killed_arrive_after_its_next_start(
    house: House, provider_is: str
) -> None:
    user = await house.user()
    if provider_is == "down":
        house.provider.terminate()
    else:
        await house.faults({"status": 503})
    events = await house.hand_in(user, 1000)
    house.server.kill()
    assert not house.arrived()
    if provider_is == "down":
        await house.provider.start()
    await house.faults()
    await house.server.start()
    await house.all_arrive(events)
    assert all(len(ids) == 1 for ids in house.arrived().values())


async def test_ten_kills_in_a_row_in_the_middle_of_a_load_lose_nothing(house: House) -> None:
    user = await house.user()
    dice = random.Random(10)
    accepted: list[HandedIn] = []
    finished = False

    async def load() -> None:
        while not finished:
            events = house.events(user, dice.randint(1, 30))
            while True:  # the same ids again, until there is an answer
                with contextlib.suppress(NoAnswer):
                    if (await house.offer(events)).status == 202:
                        accepted.extend(events)
                        break
                await asyncio.sleep(0.02)

    loading = asyncio.create_task(load())
    for number in range(10):
        if number % 3:
            await asyncio.sleep(dice.random())  # while it starts, or just after
        else:
            await house.server.ready()
            await asyncio.sleep(0.1 + 0.3 * dice.random())
        house.server.kill()
        await house.server.start(wait=False)
    await house.server.ready()
    finished = True
    await loading
    assert len(accepted) > 100
    await house.all_arrive(accepted)
    for ids in house.arrived().values():
        assert len(set(ids)) == 1, "a duplicate with another apns-id"


async def test_sigterm_ends_it_within_ten_seconds_while_the_provider_never_answers_and_nothing_is_lost(
    house: House,
) -> None:
    user = await house.user()
    await house.faults({"no_answer": True})
    events = await house.hand_in(user, 300)
    await asyncio.sleep(0.5)
    started = time.monotonic()
    status = await asyncio.to_thread(house.server.terminate)
    assert status == 0, house.explain()
    assert time.monotonic() - started < 10
    await house.faults()
    await house.server.start()
    await house.all_arrive(events)


async def test_a_provider_that_restarts_in_the_middle_gets_everything(house: House) -> None:
    user = await house.user("fcm")
    events = await house.hand_in(user, 300)
    house.provider.terminate()
    events += await house.hand_in(user, 300)
    await house.provider.start()
    events += await house.hand_in(user, 300)
    await house.all_arrive(events, 30)
