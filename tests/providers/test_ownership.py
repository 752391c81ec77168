"""Delivery sends only what it owns, and only while the store says that it may."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.support.line import Line, apns_device, fcm_device, make_event, running_line

from tocsin.emulator.faults import Latency
from tocsin.http2.pool import PoolOptions
from tocsin.store.leases import Lease
from tocsin.store.records import Item, Result

pytestmark = pytest.mark.slow


class Permission:
    """What the store answers to `may_send`."""

    def __init__(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given = True
        monkeypatch.setattr(line.store.queue, "may_send", lambda: self.given)


async def test_nothing_is_sent_while_the_store_says_no_and_all_of_it_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_line(tmp_path) as line:
        await line.register(apns_device(), fcm_device())
        first = make_event()
        await line.append(first)
        await line.finished(first)
        permission = Permission(line, monkeypatch)
        permission.given = False
        sent = len(line.emulator.inbox.find())
        events = [make_event() for _ in range(50)]
        await line.append(*events)
        await asyncio.sleep(0.7)
        assert len(line.emulator.inbox.find()) == sent
        permission.given = True
        records = await line.finished(*events)
        assert {attempt.result for record in records for attempt in record.attempts} == {Result.DELIVERED}
        assert len(line.emulator.inbox.find()) == sent + 100


async def test_what_waits_for_a_stream_when_the_store_says_no_waits_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_line(tmp_path, pool=PoolOptions(max_connections=1, max_streams=2)) as line:
        await line.register(apns_device())
        line.script(latency=Latency(fixed_ms=50))
        events = [make_event() for _ in range(40)]
        await line.append(*events)
        await asyncio.sleep(0.3)
        permission = Permission(line, monkeypatch)
        permission.given = False
        await asyncio.sleep(0.2)
        on_the_wire = len(line.emulator.inbox.find())
        await asyncio.sleep(0.7)
        assert len(line.emulator.inbox.find()) == on_the_wire < 40
        permission.given = True
        await line.finished(*events)
        assert len(line.emulator.inbox.find()) == 40


async def test_items_whose_ownership_ends_while_nothing_may_be_sent_are_delivered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_line(tmp_path, lease_s=0.5) as line:
        await line.register(apns_device())
        permission = Permission(line, monkeypatch)
        events = [make_event() for _ in range(20)]
        await line.append(*events)
        permission.given = False
        await asyncio.sleep(1.5)
        permission.given = True
        await line.finished(*events)
        arrived = Counter(entry["id"] for entry in line.emulator.inbox.find())
        assert len(arrived) == 20
        assert set(arrived.values()) == {1}


async def test_a_delivery_that_waits_for_a_stream_is_not_sent_once_its_item_is_lost(tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=PoolOptions(max_connections=1, max_streams=1)) as line:
        await line.register(apns_device())
        line.script(latency=Latency(fixed_ms=300))
        events = [make_event() for _ in range(4)]
        await line.append(*events)
        await asyncio.sleep(0.2)
        # What a store does that has lost touch: it tells, and takes no settlement.
        items = [one.item for one in line.dispatcher._settling._open]
        items.sort(key=lambda item: events.index(item.event))
        assert len(items) == 4
        leases = line.store.queue._claims.leases  # type: ignore[attr-defined]
        for item in items[1:]:
            assert isinstance(item, Item)
            assert isinstance(item.handle, Lease)
            del leases._held[item.handle.number]
        leases._lost(items[1:])
        await line.finished(events[0])
        await asyncio.sleep(1.0)
        assert len(line.emulator.inbox.find()) == 1
        assert line.dispatcher._settling._open == set()
        for event in events[1:]:
            assert (await line.record(event)).attempts == []


async def test_ownership_of_what_is_on_the_wire_is_extended_so_that_it_is_delivered_once(tmp_path: Path) -> None:
    """The answer takes longer than ownership lasts."""
    async with running_line(tmp_path, lease_s=2.0) as line:
        await line.register(apns_device())
        line.script(latency=Latency(fixed_ms=2800))
        event = make_event()
        await line.append(event)
        began = time.monotonic()
        [record] = await line.finished(event)
        assert time.monotonic() - began > 2.5
        assert [attempt.result for attempt in record.attempts] == [Result.DELIVERED]
        assert len(line.emulator.inbox.find()) == 1
