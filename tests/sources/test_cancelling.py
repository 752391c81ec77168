"""A cancellation that comes together with the answer to a request: Python 3.11 forgets it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nats.js import JetStreamContext
from tests.sources.bus import NORMAL, Bus, encoded, fax, nats_settings, taking
from tests.support.nats import NatsServer

from tocsin.sources.cancelling import cancelled
from tocsin.sources.consumption import Consumption
from tocsin.sources.pulling import ConsumerGone

pytestmark = pytest.mark.slow


async def test_a_consumer_that_is_gone_in_the_turn_of_another_answer_does_not_stop_the_source_for_good(
    bus: Bus, server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read of the connection brings both: the figures of a consumer, and that nobody answers for it."""
    asked = asyncio.Event()
    figures: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    real_info, real_run = JetStreamContext.consumer_info, Consumption.run

    async def consumer_info(js: JetStreamContext, *given: Any, **more: Any) -> Any:
        info = await real_info(js, *given, **more)
        if not figures.done() and "timeout" in more:  # it is watched
            figures.info = info  # type: ignore[attr-defined]
            asked.set()
            return await asyncio.wait_for(figures, 30)
        return info

    async def run(consumption: Consumption) -> None:
        if not figures.done():
            await asked.wait()
            await asyncio.sleep(0)
            if not figures.done():
                figures.set_result(figures.info)  # type: ignore[attr-defined]
                raise ConsumerGone("nobody answers for it")
        await real_run(consumption)

    monkeypatch.setattr(JetStreamContext, "consumer_info", consumer_info)
    monkeypatch.setattr(Consumption, "run", run)
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1)), subject=NORMAL)
        await taken.has(1, within_s=20)
    assert figures.done()


async def test_a_task_that_forgets_a_cancellation_is_cancelled_again() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def forgets() -> None:
        await asyncio.wait_for(answer, 30)
        await asyncio.sleep(600)

    task = asyncio.create_task(forgets())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer.set_result(None)
    async with asyncio.timeout(30):
        await cancelled(task)
    assert task.cancelled()
