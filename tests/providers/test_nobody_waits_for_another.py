"""One device, topic or project that is wrong delays no other; what waits for a probe goes when that is answered."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.support.line import (
    APPLICATION,
    PROJECT,
    Line,
    apns_credential,
    apns_device,
    fcm_device,
    make_event,
    running_line,
)

from tocsin.domain.devices import Device
from tocsin.domain.routes import LaneState
from tocsin.emulator.faults import Match, Rule
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns.address import ApnsAddress
from tocsin.store.records import Result

pytestmark = pytest.mark.slow

PRODUCTION = f"apns:production:{APPLICATION}"
FCM = f"fcm:{PROJECT}"
CALL = "dialplan_callreverse_start"


def owner(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


async def until(line: Line, state: LaneState, *, in_flight: int | None = None) -> None:
    """Wait until the lane of Apple's production is in this state."""
    deadline = time.monotonic() + 10
    while True:
        lanes = [lane for lane in line.dispatcher.lanes.statuses() if lane.name == PRODUCTION]
        if any(lane.state is state and in_flight in (None, lane.in_flight) for lane in lanes):
            return
        assert time.monotonic() < deadline, lanes
        await asyncio.sleep(0.005)


async def call(line: Line, device: Device, within_s: float = 5.0) -> None:
    """A call for this device alone is delivered at its first attempt."""
    event = make_event(device.owner, CALL, lifetime_s=60)
    await line.append(event)
    [record] = await line.finished(event, timeout_s=within_s)
    assert [attempt.result for attempt in record.attempts] == [Result.DELIVERED]


async def test_a_wrong_topic_of_one_device_never_delays_another_device(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        wrong, good = apns_device(owner=owner(1)), apns_device(owner=owner(2))
        line.script(Rule(match=Match(token=wrong.token), status=400, reason="DeviceTokenNotForTopic"))
        await line.register(wrong, good)
        # The good one has not been reached before; then again and again beside pushes to the wrong one.
        for number in range(5):
            event = make_event(wrong.owner)
            await line.append(event)
            if number == 0:
                record = await line.attempted(event)
                assert record.attempts[0].result == Result.MISCONFIGURED
            await call(line, good)
        status = line.lane(PRODUCTION)
        assert status.state is LaneState.RUNNING
        assert (status.misconfigured_topics, status.misconfigured_devices) == ({}, 1)
        assert len(await line.store.registry.find(wrong.token)) == 1
        # Once it is deleted, nothing is paused any more.
        await line.store.registry.delete(wrong.owner, "apns", wrong.token)
        assert line.lane(PRODUCTION).misconfigured_devices == 0


async def test_a_device_whose_push_service_the_project_cannot_reach_never_delays_another_users_call(
    tmp_path: Path,
) -> None:
    async with running_line(tmp_path) as line:
        wrong, good = fcm_device(owner=owner(1)), fcm_device(owner=owner(2))
        line.script(Rule(match=Match(token=wrong.token), status=401, reason="THIRD_PARTY_AUTH_ERROR"))
        await line.register(wrong, good)
        await call(line, good)
        issued = line.emulator.inbox.tokens_issued
        for number in range(5):
            event = make_event(wrong.owner)
            await line.append(event)
            if number == 0:
                record = await line.attempted(event)
                assert record.attempts[0].result == Result.MISCONFIGURED
            await call(line, good)
        assert line.lane(FCM).state is LaneState.RUNNING
        assert line.emulator.inbox.tokens_issued == issued, "it is not the access token"


async def test_devices_of_many_owners_blame_their_topic_and_no_other(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        wrong = [apns_device(owner=owner(number), topic="de.cospace.wrong") for number in range(20)]
        good = apns_device(owner=owner(99))
        line.script(Rule(match=Match(topic="de.cospace.wrong"), status=400, reason="DeviceTokenNotForTopic"))
        await line.register(*wrong, good)
        await line.append(*[make_event(device.owner) for device in wrong])
        await until(line, LaneState.RUNNING)
        deadline = time.monotonic() + 10
        while "de.cospace.wrong" not in line.lane(PRODUCTION).misconfigured_topics:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await call(line, good)
        for device in wrong:
            await line.store.registry.delete(device.owner, "apns", device.token)
        assert line.lane(PRODUCTION).misconfigured_topics == {}


async def test_a_device_whose_pushes_all_fail_never_delays_another_device(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        bad, good = apns_device(owner=owner(1)), apns_device(owner=owner(2))
        await line.register(bad, good)
        line.script(Rule(match=Match(token=bad.token), status=503, reason="ServiceUnavailable"))
        events = [make_event(bad.owner) for _ in range(30)]
        await line.append(*events)
        for event in events:
            await line.attempted(event)
        assert line.lane(PRODUCTION).state is LaneState.RUNNING
        await call(line, good)


async def test_what_comes_while_a_probe_is_out_goes_as_soon_as_it_is_answered(tmp_path: Path) -> None:
    async with running_line(tmp_path, random_number=lambda: 0.0) as line:
        await line.register(*[apns_device() for _ in range(5)])
        line.script(
            Rule(status=503, reason="ServiceUnavailable", times=5),
            Rule(delay_s=0.7, times=1),
        )
        # Failures of five devices open the breaker for half a second; then the provider answers after 0.7 s.
        await line.append(make_event())
        await until(line, LaneState.OPEN, in_flight=0)
        await until(line, LaneState.OPEN, in_flight=1)
        began = time.monotonic()
        calls = [make_event(message=CALL, lifetime_s=60) for _ in range(5)]
        await line.append(*calls)
        records = await line.finished(*calls, timeout_s=10)
        assert {record.attempts[-1].result for record in records} == {Result.DELIVERED}
        assert {len(record.attempts) for record in records} == {5}, "one for each device"
        assert time.monotonic() - began < 5, "and not after a fixed minute"


async def test_requests_that_hung_before_the_breaker_opened_do_not_keep_it_open(tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=PoolOptions(request_timeout_s=1.5), random_number=lambda: 0.0) as line:
        await line.register(*[apns_device() for _ in range(5)])
        # The last of them are lost at once, the others are never answered; then Apple is well again.
        line.script(Rule(no_answer=True, times=20), Rule(reset=2, times=5))
        await line.append(*[make_event() for _ in range(5)])
        await until(line, LaneState.OPEN)
        await until(line, LaneState.RUNNING)
        # The twenty time-outs come only now.
        for _ in range(60):
            await asyncio.sleep(0.05)
            assert line.lane(PRODUCTION).state is LaneState.RUNNING


async def test_a_retry_after_of_nothing_is_not_a_tight_loop(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        await line.register(apns_device())
        line.script(Rule(status=429, reason="TooManyRequests", headers={"retry-after": "0"}))
        event = make_event()
        await line.append(event)
        await asyncio.sleep(2)
        assert len((await line.record(event)).attempts) == 1


async def test_a_token_called_dead_since_before_its_registration_is_tried_ever_more_slowly(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device()
        await line.register(device)
        line.script(Rule(status=410, reason="Unregistered", timestamp=1_000_000_000_000))
        event = make_event(lifetime_s=10 * 24 * 3600)
        await line.append(event)
        waits: list[int] = []
        for attempts in range(1, 10):
            record = await line.attempted(event, attempts)
            # Not the last one: after the first attempt the second follows at once.
            last = record.attempts[attempts - 1]
            assert last.retry_at_ms is not None
            waits.append((last.retry_at_ms - last.at_ms) // 1000)
            if waits[-1]:
                # As if that time had passed.
                while not (await line.record(event)).waiting:
                    await asyncio.sleep(0.005)
                await line.store.schedule.wake([PRODUCTION])
        assert waits == [0, 60, 120, 240, 480, 900, 900, 900, 900]
        assert len(await line.store.registry.find(device.token)) == 1


async def test_a_pause_that_nothing_waits_for_ends(tmp_path: Path) -> None:
    async with running_line(tmp_path, random_number=lambda: 0.0) as line:
        await line.register(*[apns_device() for _ in range(5)])
        line.script(Rule(status=503, reason="ServiceUnavailable", times=5))
        events = [make_event(lifetime_s=0.3)]
        await line.append(*events)
        await line.finished(*events)
        assert line.lane(PRODUCTION).state is LaneState.OPEN
        deadline = time.monotonic() + 30
        while line.lane(PRODUCTION).state is not LaneState.RUNNING:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


_OTHER_APPLICATION = "39JSDKGJ38.de.cospace.other"
_OTHER_TOPIC = "de.cospace.app.voip"
_WRONG: dict[str, tuple[Match, list[dict[str, Any]]]] = {
    "device": (Match(provider="apns", token_prefix="dead"), [dict(status=400, reason="DeviceTokenNotForTopic")]),
    "device of Google's": (
        Match(provider="fcm", token_prefix="dead"),
        [dict(status=401, reason="THIRD_PARTY_AUTH_ERROR")],
    ),
    "topic": (
        Match(topic=_OTHER_TOPIC),
        [dict(status=400, reason=reason) for reason in ("TopicDisallowed", "BadTopic", "DeviceTokenNotForTopic")],
    ),
    "application": (
        Match(application=_OTHER_APPLICATION),
        [
            dict(status=403, reason="Forbidden"),
            dict(status=503, reason="ServiceUnavailable", headers={"retry-after": "0"}),
            dict(status=429, reason="TooManyRequests", headers={"retry-after": "99999999"}),
        ],
    ),
    "environment": (
        Match(environment="sandbox"),
        [dict(no_answer=True), dict(reset=2), dict(status=500, reason="InternalServerError"), dict(delay_s=3)],
    ),
}
"""What may be wrong: which requests it concerns, and with which answers."""
_WITHIN_S = 5.0
"""A call for a device about which nothing is wrong takes milliseconds; this bound is for slow machines."""


@settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_wrong_with_some_never_delays_a_call_for_another(data: st.DataObject) -> None:
    rules = [
        Rule(match=match, **data.draw(st.sampled_from(answers)))
        for name, (match, answers) in _WRONG.items()
        if data.draw(st.booleans(), label=name)
    ]
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_calls_arrive(Path(directory), rules))


async def _calls_arrive(directory: Path, rules: list[Rule]) -> None:
    async with running_line(directory, pool=PoolOptions(request_timeout_s=2)) as line:
        key, key_id = line.emulator.files.apns_key.read_text(), line.emulator.files.key_id
        await line.store.credentials.put(apns_credential(key, key_id, application=_OTHER_APPLICATION))
        await line.configure()
        line.script(*rules)
        # Five tokens for each of ten owners, of every kind that may be wrong.
        other = ApnsAddress(_OTHER_APPLICATION, False, None).text()
        for number in range(10):
            await line.register(
                apns_device(f"dead{number:060x}", owner=owner(number)),
                fcm_device(f"dead-registration-token-{number}", owner=owner(number)),
                apns_device(owner=owner(number), topic=_OTHER_TOPIC),
                apns_device(owner=owner(number), sandbox=True),
                replace(apns_device(owner=owner(number)), address=other),
            )
        good = [apns_device(owner=owner(97)), fcm_device(owner=owner(98))]
        await line.register(*good)
        for _ in range(10):
            await line.append(*[make_event(owner(number)) for number in range(10) for _ in range(3)])
            for device in good:
                await call(line, device, _WITHIN_S)
            await asyncio.sleep(0.1)
