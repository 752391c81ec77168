"""Memory, streams and claims are shared: whoever hangs, or has much to send, leaves the others what they need."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from uuid import UUID

import pytest
from tests.support.line import APPLICATION, Line, apns_credential, apns_device, fcm_device, make_event, running_line

from tocsin.delivery.lane import LaneOptions
from tocsin.domain.devices import Device
from tocsin.emulator.faults import Latency, Match, Rule
from tocsin.http2.pool import PoolOptions
from tocsin.store.records import Result

pytestmark = pytest.mark.slow

PRODUCTION = f"apns:production:{APPLICATION}"
CALL = "dialplan_callreverse_start"


def owner(number: int) -> str:
    return str(UUID(int=number, version=4))


async def rings(line: Line, device: Device, within_s: float) -> None:
    call = make_event(device.owner, CALL, lifetime_s=60)
    await line.append(call)
    [record] = await line.finished(call, timeout_s=within_s)
    assert [attempt.result for attempt in record.attempts] == [Result.DELIVERED]


async def longest_stall_s(until: asyncio.Event) -> float:
    """How long the loop worked without getting round to a task that is always ready, at worst: its CPU time, as this
    machine may have other work."""
    longest = 0.0
    while not until.is_set():
        before = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - before)
    return longest


async def test_large_events_of_a_silent_provider_do_not_take_the_memory_that_others_need(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        phone, silent = fcm_device(owner=owner(1)), apns_device(owner=owner(2))
        await line.register(phone, silent)
        line.script(Rule(match=Match(provider="apns"), no_answer=True))
        for _ in range(50):
            await line.append(*[make_event(silent.owner, padding=15_500) for _ in range(100)])
        await asyncio.sleep(2)  # as much of it is in memory as ever will be
        # The provider's requests time out after 30 s: nothing of what it holds comes back before.
        for _ in range(5):
            await rings(line, phone, within_s=8)


async def test_silent_applications_of_a_key_leave_streams_for_its_other_applications(tmp_path: Path) -> None:
    """Their windows are as wide as after many answers: together they could fill every connection."""
    options = LaneOptions(in_flight=100, waiting=1000, first_in_flight=100)
    async with running_line(tmp_path, lane=options, pool=PoolOptions(max_connections=2, max_streams=100)) as line:
        [own] = await line.store.credentials.of("apns")
        silent = [f"39JSDKGJ38.de.cospace.silent{number}" for number in range(3)]
        for application in silent:
            files = line.emulator.files
            await line.store.credentials.put(
                apns_credential(files.apns_key.read_text(), files.key_id, application=application)
            )
        await line.configure()
        line.script(*(Rule(match=Match(application=application), no_answer=True) for application in silent))
        phone = apns_device(owner=owner(1))
        hanging = [
            apns_device(owner=owner(number), application=application) for number, application in enumerate(silent, 2)
        ]
        await line.register(phone, *hanging)
        for device in hanging:
            await line.append(*[make_event(device.owner) for _ in range(300)])
        await asyncio.sleep(2)
        for _ in range(5):
            await rings(line, phone, within_s=8)
        assert own.account == APPLICATION, "all of one key"
        assert len(list(line.providers["apns"].pools())) == 1


async def test_owners_of_many_tokens_are_claimed_by_their_deliveries_and_parked_once(tmp_path: Path) -> None:
    """200 events for owners of 100 tokens each, through a lane that has room for a tenth of that."""
    options = LaneOptions(in_flight=200, waiting=2000, first_in_flight=200)
    async with running_line(tmp_path, lane=options, emulator_options={"inbox_size": 30_000}) as line:
        owners = [owner(number) for number in range(20)]
        for one in owners:
            await line.register(*[apns_device(owner=one) for _ in range(100)])
        line.script(latency=Latency(fixed_ms=50))
        parked = 0
        settle = line.store.queue.settle

        async def counting(settlements):  # type: ignore[no-untyped-def]
            nonlocal parked
            parked += sum(len(one.targets) for settlement in settlements for one in settlement.parked)
            return await settle(settlements)

        line.store.queue.settle = counting  # type: ignore[method-assign]
        done = asyncio.Event()
        stalls = asyncio.create_task(longest_stall_s(done))
        events = [make_event(owners[number % 20]) for number in range(200)]
        await line.append(*events)
        await line.finished(*events, timeout_s=120)
        done.set()
        stall_s = await stalls
        assert len({entry["id"] for entry in line.emulator.inbox.find(limit=30_000)}) == 20_000
        assert parked <= 20_000, "each delivery is parked once at most, and most never"
        assert stall_s < 0.6
