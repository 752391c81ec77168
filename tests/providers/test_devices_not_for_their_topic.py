"""A device that does not belong to its topic: its record says so, and after a week it goes into quarantine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.line import APPLICATION, Line, apns_device, make_event, running_line

from tocsin.domain.devices import Complaint, Device
from tocsin.emulator.faults import Match, Rule
from tocsin.service.complaints import COMPLAINED_FOR_DAYS, quarantine_complaining
from tocsin.store.records import Result

pytestmark = pytest.mark.slow

BUNDLE = APPLICATION.partition(".")[2]
DAY_S = 24 * 3600.0
WRONG = apns_device(owner="00000000-0000-4000-8000-000000000001")
GOOD = apns_device(owner="00000000-0000-4000-8000-000000000002")


class Calendar:
    """The store's wall clock: days go by when they are told to."""

    def __init__(self) -> None:
        self.days = 0.0

    def __call__(self) -> float:
        return time.time() + self.days * DAY_S


async def registered(line: Line, device: Device) -> Device:
    return (await line.store.registry.devices_of([device.owner]))[device.owner][0]


async def until(line: Line, device: Device, holds: Callable[[Complaint | None], bool]) -> Complaint | None:
    """What its record says, as soon as that holds."""
    deadline = time.monotonic() + 20
    while True:
        said = (await registered(line, device)).complaint
        if holds(said):
            return said
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.02)


def is_wrong(line: Line) -> None:
    line.script(Rule(match=Match(token=WRONG.token), status=400, reason="DeviceTokenNotForTopic"))


async def reach(line: Line, device: Device) -> None:
    event = make_event(device.owner, lifetime_s=20 * DAY_S)
    await line.append(event)
    [record] = await line.finished(event)
    assert [attempt.result for attempt in record.attempts] == [Result.DELIVERED]


async def a_week(directory: Path, calendar: Calendar) -> None:
    """The wrong one is complained of on the first day and after a week; the good one is reached at both times."""
    event = make_event(WRONG.owner, lifetime_s=20 * DAY_S)
    async with running_line(directory, wall_clock=calendar) as line:
        is_wrong(line)
        await line.register(WRONG, GOOD)
        await line.append(event)
        said = await until(line, WRONG, lambda said: said is not None)
        assert said is not None
        assert (said.reason, said.account, said.topic) == ("400 DeviceTokenNotForTopic", APPLICATION, BUNDLE)
        assert said.since_ms == said.last_ms
        await reach(line, GOOD)
    calendar.days += COMPLAINED_FOR_DAYS + 0.1
    async with running_line(directory, wall_clock=calendar) as line:
        is_wrong(line)
        await line.attempted(event, 2)
        now = await until(line, WRONG, lambda now: now is not None and now.last_ms > now.since_ms)
        assert now is not None
        assert now.since_ms == said.since_ms
        await reach(line, GOOD)


async def test_a_device_not_for_its_topic_is_quarantined_after_a_week_and_can_be_released(tmp_path: Path) -> None:
    calendar = Calendar()
    await a_week(tmp_path, calendar)
    async with running_line(tmp_path, wall_clock=calendar) as line:
        registry = line.store.registry
        [duty] = [duty for duty in line.watchers.duties if duty.name == "complaints"]
        await duty._action()
        assert await registry.devices_of([WRONG.owner]) == {}
        assert (await registered(line, GOOD)).complaint is None
        (removal,) = await registry.history(owner=WRONG.owner)
        assert removal.quarantined
        assert removal.reason == "400 DeviceTokenNotForTopic for 7 days"
        # What its user's events come to now: nothing is sent, nothing is lost.
        event = make_event(WRONG.owner, lifetime_s=20 * DAY_S)
        await line.append(event)
        [record] = await line.finished(event)
        assert record.attempts == []
        await line.watchers._look_at_quarantine()
        assert not line.dispatcher.lanes.any_fuse_blown, "no fuse has blown: dead tokens are removed as ever"
        line.script()
        assert await registry.release_quarantine(APPLICATION, 100) == 1
        await reach(line, await registered(line, WRONG))


async def test_a_device_that_is_reached_again_is_not_complained_of_any_more(tmp_path: Path) -> None:
    calendar = Calendar()
    await a_week(tmp_path, calendar)
    calendar.days += 0.1
    async with running_line(tmp_path, wall_clock=calendar) as line:
        # The event that waited is due by now, and is delivered.
        await until(line, WRONG, lambda said: said is None)
        await quarantine_complaining(line.store.registry)
        assert (await registered(line, WRONG)).token == WRONG.token


async def test_which_topics_are_right_outlives_a_restart_but_not_another_credential(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        await line.register(GOOD)
        await reach(line, GOOD)
    async with running_line(tmp_path) as line:
        [topic] = await line.store.registry.topics()
        assert (topic.provider, topic.account, topic.topic) == ("apns", APPLICATION, BUNDLE)
        route = line.providers["apns"].route(GOOD)
        assert line.dispatcher.lanes.of(route).evidence.right == {BUNDLE}
    async with running_line(tmp_path) as line:
        [credential] = await line.store.credentials.of("apns")
        await line.store.credentials.put(credential)
        assert line.dispatcher.lanes.of(route).evidence.right == set()
