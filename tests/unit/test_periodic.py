"""Periodic duties: when they are due, done at once when asked, and done again after a failure."""

from __future__ import annotations

import asyncio

import pytest

from tocsin.service import periodic
from tocsin.service.periodic import Duty, run_all
from tocsin.store.ports import StoreUnavailable


class Times:
    """How often an action ran, and when it runs for the `count`th time."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Condition()

    async def add(self) -> None:
        async with self._changed:
            self.count += 1
            self._changed.notify_all()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: self.count >= count)


async def until_stopped(*duties: Duty) -> asyncio.Task[None]:
    task = asyncio.create_task(run_all(duties))
    await asyncio.sleep(0)
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_duty_is_done_when_due_and_then_in_its_period() -> None:
    times = Times()
    duty = Duty("count", 3600, times.add, first_s=0.01)
    task = await until_stopped(duty)
    await times.reach(1)
    await asyncio.sleep(0)
    assert duty.due_at is not None
    assert duty.due_at - asyncio.get_running_loop().time() == pytest.approx(3600, abs=60)
    await stop(task)
    assert times.count == 1


async def test_what_an_action_returns_is_the_time_until_the_next() -> None:
    times = Times()

    async def again_soon() -> float:
        await times.add()
        return 0.001

    task = await until_stopped(Duty("count", 3600, again_soon, first_s=0.001))
    await times.reach(5)
    await stop(task)


async def test_now_does_it_at_once() -> None:
    times = Times()
    duty = Duty("count", 3600, times.add)
    task = await until_stopped(duty)
    for count in (1, 2):
        duty.now()
        await times.reach(count)
    await stop(task)


@pytest.mark.parametrize("error", [StoreUnavailable("no"), ValueError("a defect")])
async def test_a_failure_is_done_again_and_ends_no_other_duty(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(periodic, "_AFTER_FAILURE_S", 0.001)
    failed, other = Times(), Times()

    async def fails_twice() -> None:
        await failed.add()
        if failed.count < 3:
            raise error

    task = await until_stopped(
        Duty("fails", 3600, fails_twice, first_s=0), Duty("other", 3600, other.add, first_s=0.01)
    )
    await failed.reach(3)
    await other.reach(1)
    assert not task.done()
    await stop(task)
