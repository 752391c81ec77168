"""Memory, streams and claims are shared: whoever hangs, or has much to send, leaves the others what they need."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import pytest
from tests.support.line import APPLICATION, Line, apns_credential, apns_device, make_event, running_line

from tocsin.delivery.lane import LaneOptions
from tocsin.domain.devices import Device
from tocsin.emulator.faults import Match, Rule
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
