"""Random faults against a model: nothing is lost, nothing doubled without cause, no token removed that is protected."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.support.line import Line, apns_device, fcm_device, make_event, running_line

from tocsin.domain.devices import Device
from tocsin.domain.events import Event
from tocsin.emulator.faults import Goaway, Match, Rule
from tocsin.http2.pool import PoolOptions
from tocsin.store.records import Result

pytestmark = pytest.mark.slow

_OWNERS = [f"00000000-0000-4000-8000-{number:012d}" for number in range(3)]
_LONG_AGO_MS = 1_000_000_000_000

# What may happen to a push, and whether Apple or Google may have taken it all the same.
_FAULTS = {
    "unavailable": dict(status=503, reason="ServiceUnavailable", headers={"retry-after": "0"}),
    "rate": dict(status=429, reason="TooManyRequests", headers={"retry-after": "0"}),
    "internal": dict(status=500, reason="InternalServerError"),
    "reset": dict(reset=2),
    "reset after processing": dict(reset=2, processed=True),
    "refused stream": dict(reset=7),
    "cut": dict(cut="mid_headers"),
    "cut after processing": dict(cut="mid_body", processed=True),
    "no answer": dict(no_answer=True, processed=True),
    "goaway": dict(goaway=Goaway(mode="mid")),
    "goaway at once": dict(goaway=Goaway(mode="immediate")),
    "slow": dict(delay_s=0.2),
    "one stream": dict(max_concurrent_streams=1),
    "dead before it was registered": dict(status=410, reason="Unregistered", timestamp=_LONG_AGO_MS),
    "nobody knows": dict(status=410, reason="SomethingNew", headers={"retry-after": "0"}),
}
_UNKNOWN = {"reset after processing", "cut", "cut after processing", "no answer", "reset", "goaway at once"}


class Faults(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.stack = AsyncExitStack()
        self.devices: dict[str, Device] = {}
        self.dead: set[str] = set()
        self.events: list[Event] = []
        self.expected: dict[str, set[str]] = {}
        self.doubtful = 0
        self.line: Line = self.runner.run(self._open())

    async def _open(self) -> Line:
        options = PoolOptions(request_timeout_s=1.0, max_streams=50)
        line = running_line(Path(self.directory.name), pool=options, random_number=lambda: 0.0)
        return await self.stack.enter_async_context(line)

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.runner.run(self._check())
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()
            self.directory.cleanup()

    @rule(owner=st.sampled_from(_OWNERS), fcm=st.booleans(), sandbox=st.booleans())
    def register(self, owner: str, fcm: bool, sandbox: bool) -> None:
        device = fcm_device(owner=owner) if fcm else apns_device(owner=owner, sandbox=sandbox)
        self.devices[device.token] = device
        self.runner.run(self.line.register(device))

    @rule(fault=st.sampled_from(sorted(_FAULTS)), times=st.integers(1, 4), after=st.integers(0, 5))
    def script(self, fault: str, times: int, after: int) -> None:
        self.line.script(Rule(times=times, after=after, **_FAULTS[fault]))  # type: ignore[arg-type]
        self.doubtful += fault in _UNKNOWN or "cut" in fault

    @rule(data=st.data())
    def a_token_dies(self, data: st.DataObject) -> None:
        alive = sorted(self.devices.keys() - self.dead)
        if not alive or self.devices[alive[0]].provider != "apns":
            return
        token = data.draw(st.sampled_from(alive))
        if self.devices[token].provider == "apns":
            self.dead.add(token)
            when = int(time.time() * 1000) + 60_000
            rule_ = Rule(match=Match(token=token), status=410, reason="Unregistered", timestamp=when)
            self.line.script(rule_)

    @rule(owner=st.sampled_from(_OWNERS), count=st.integers(1, 30))
    def hand_in(self, owner: str, count: int) -> None:
        events = [make_event(owner) for _ in range(count)]
        self.runner.run(self.line.append(*events))
        for event in events:
            self.expected[event.id] = {token for token, device in self.devices.items() if device.owner == owner}
        self.events += events

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.2]))
    def let_time_pass(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "line"):
            lanes = self.line.dispatcher.lanes.statuses()
            assert all(lane.in_flight <= 4000 and lane.waiting <= 8000 for lane in lanes)

    async def _keep_waking(self) -> None:
        while True:
            await self.line.store.schedule.wake([lane.name for lane in self.line.dispatcher.lanes.statuses()])
            await asyncio.sleep(0.5)

    async def _check(self) -> None:
        self.line.script()
        # What waits for half a minute because of a rate need not do so here.
        waking = asyncio.create_task(self._keep_waking())
        records = await self.line.finished(*self.events, timeout_s=60) if self.events else []
        waking.cancel()
        arrived = Counter((entry["id"], entry["token"]) for entry in self.line.emulator.inbox.find(limit=20_000))
        by_event = {record.event.id: record for record in records}
        for id, tokens in self.expected.items():
            final = {attempt.device.partition(":")[2]: attempt.result for attempt in by_event[id].attempts}
            for token in tokens - self.dead:
                assert final.get(token) == Result.DELIVERED, (token, by_event[id].attempts)
            for token in tokens & self.dead:
                assert final.get(token) in (Result.DELIVERED, Result.TOKEN_DEAD, Result.CANCELLED, None)
        unknown = sum(
            attempt.result == Result.RETRY and attempt.status == 0 for record in records for attempt in record.attempts
        )
        # FCM has no id of the sender's: count by the receipts, which name every attempt.
        doubled = sum(count - 1 for (_, token), count in arrived.items() if self.devices[token].provider == "apns")
        assert doubled <= unknown
        for token, device in self.devices.items():
            if token not in self.dead:
                found = await self.line.store.registry.find(device.token)
                assert found, f"{device.provider} token removed without cause"


def test_random_faults_lose_nothing_double_nothing_and_kill_no_living_token() -> None:
    run_state_machine_as_test(
        Faults,
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
