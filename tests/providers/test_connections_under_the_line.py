"""The whole line, over connections that end and streams that are reset: nothing is lost by it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from tests.support.line import APPLICATION, apns_device, make_event, running_line

from tocsin.emulator.faults import Goaway, Latency, Rule
from tocsin.http2.pool import PoolOptions
from tocsin.store.records import Result

pytestmark = pytest.mark.slow


async def test_ten_thousand_events_through_goaways_and_resets_all_arrive(tmp_path: Path) -> None:
    """GOAWAY every 500 requests, 1 % of the streams reset after they were processed: duplicates only from those."""
    async with running_line(tmp_path, emulator_options={"inbox_size": 50_000}) as line:
        line.script(
            Rule(reset=2, processed=True, rate=0.01),
            Rule(goaway=Goaway(mode="mid", every=500)),
            latency=Latency(fixed_ms=2),
            seed=7,
        )
        devices = [apns_device(owner=f"00000000-0000-4000-8000-{number:012d}") for number in range(200)]
        await line.register(*devices)
        events = [make_event(devices[number % 200].owner) for number in range(10_000)]
        for start in range(0, len(events), 1000):
            await line.append(*events[start : start + 1000])
        async with asyncio.timeout(60):
            while (await line.store.queue.backlog()).events:
                await asyncio.sleep(0.05)
        arrived = Counter(entry["id"] for entry in line.emulator.inbox.find(limit=50_000))
        assert len(arrived) == 10_000
        duplicates = sum(count - 1 for count in arrived.values())
        reset = line.metric(f"apns:production:{APPLICATION}", "retry", "link")
        assert duplicates <= reset
        assert 40 <= reset <= 400
        records = await asyncio.gather(*(line.record(event) for event in events[:50]))
        assert all(record.attempts[-1].result == Result.DELIVERED for record in records)


async def test_no_call_expires_for_a_connection_that_fell_silent(tmp_path: Path) -> None:
    """The provider is well, but what is sent on the connection that is open is never read."""
    pool = PoolOptions(request_timeout_s=3, ping_after_s=600, ping_timeout_s=1)
    async with running_line(tmp_path, pool=pool) as line:
        await line.register(apns_device())
        line.script(Rule(slow_read_s=600, times=1))
        await line.append(first := make_event())
        await line.finished(first)
        calls = []
        for _ in range(20):
            calls.append(make_event(message="dialplan_callreverse_start", lifetime_s=30))
            await line.append(calls[-1])
            await asyncio.sleep(0.1)
        records = await line.finished(*calls, timeout_s=40)
        assert {record.attempts[-1].result for record in records} == {Result.DELIVERED}


async def test_what_is_to_be_tried_at_once_is_tried_at_once_although_nothing_else_happens(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        await line.register(apns_device())
        waits_ms = []
        for _ in range(5):
            line.script(Rule(status=400, reason="IdleTimeout", times=1))
            await line.append(event := make_event())
            [record] = await line.finished(event)
            first, second = record.attempts
            waits_ms.append(second.at_ms - first.at_ms)
        assert min(waits_ms) < 500, "the dispatcher looks by itself once a second"
