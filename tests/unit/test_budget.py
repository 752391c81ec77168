"""A guard for the hot path that is not a timed test: Python function calls per delivery, against a budget.

Calls are counted by the interpreter's own profiling hook, so the count is the same on every machine. When a budget is
exceeded, a loop has gained a call per delivery: that is what made the difference between 24 and 37 microseconds once.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.line import APPLICATION, apns_credential, apns_device, make_event

from tocsin.delivery.dispatcher import Dispatcher, DispatcherOptions
from tocsin.delivery.lane import LaneOptions
from tocsin.domain.events import parse_event
from tocsin.domain.outcomes import Answer, Delivered, Outcome
from tocsin.domain.routes import Route
from tocsin.http2.network import SystemNetwork
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns.channels import ApnsOptions
from tocsin.providers.apns.provider import Apns
from tocsin.providers.apns.requests import ApnsRequest
from tocsin.providers.base import Content, Context, Push
from tocsin.providers.rules import check_event
from tocsin.store.records import Handle, Item
from tocsin.telemetry import Metrics

BUDGET = json.loads((Path(__file__).parent / "budget.json").read_text())
COUNT = 1000


def calls(function: Callable[[], Any]) -> float:
    """Calls of Python and C functions per delivery."""
    counted = 0

    def hook(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        if event in ("call", "c_call"):
            counted += 1

    sys.setprofile(hook)
    try:
        function()
    finally:
        sys.setprofile(None)
    return counted / COUNT


def check(name: str, measured: float) -> None:
    allowed = BUDGET[name]
    assert measured <= allowed, (
        f"{name}: {measured:.1f} function calls per delivery, the budget is {allowed}."
        f" If the extra work is worth it, measure it with `make bench-quick` and raise tests/unit/budget.json."
    )


def test_parsing_and_checking_an_event_stay_within_their_budget() -> None:
    raw = make_event(message="dialplan_callreverse_start").body
    check("parse_event", calls(lambda: [check_event(parse_event(raw)) for _ in range(COUNT)]))


class _Instant:
    """A provider that takes everything, and reports when told."""

    def __init__(self) -> None:
        self.taken: list[Push] = []
        self._route = Route("apns", APPLICATION, f"apns:production:{APPLICATION}", "production")

    def route(self, device: Any) -> Route:
        return self._route

    def send(self, pushes: Sequence[Push]) -> None:
        self.taken += pushes


class _NoStore:
    """Of a store only what the dispatcher asks when it is made, and its time."""

    def __init__(self) -> None:
        self.queue = self.schedule = self.registry = self.signals = self

    def when_lost(self, lost: Any) -> None: ...

    def subscribe(self, receive: Any) -> None: ...

    def may_send(self) -> bool:
        return True

    def now_ms(self) -> int:
        return int(time.time() * 1000)


async def test_dispatching_and_reporting_stay_within_their_budget() -> None:
    options = DispatcherOptions(LaneOptions(10_000, 10_000, 10_000), 240.0)
    dispatcher = Dispatcher(_NoStore(), options, Metrics())  # type: ignore[arg-type]
    provider = _Instant()
    dispatcher.use({"apns": provider}, 35.0)  # type: ignore[dict-item]
    devices: dict[Any, Any] = {}
    items = []
    for number in range(COUNT):
        owner = f"00000000-0000-4000-8000-{number:012d}"
        devices[owner] = [apns_device(owner=owner)]
        items.append(Item(make_event(owner), Handle()))
    check("dispatch", calls(lambda: dispatcher._dispatch(items, devices)))
    assert len(provider.taken) == COUNT
    outcome: Outcome = Delivered(Answer(200, ""))
    check("report", calls(lambda: dispatcher.report([(push, outcome) for push in provider.taken])))
    settlements: list[Any] = []
    finished = dispatcher._settling._finished
    check("settlement", calls(lambda: settlements.extend(opened.settlement() for opened in finished)))
    assert len(settlements) == COUNT


class _Reported:
    def __init__(self) -> None:
        self.outcomes: list[tuple[Push, Outcome]] = []

    def report(self, outcomes: list[tuple[Push, Outcome]]) -> None:
        self.outcomes += outcomes

    def send_anew(self, pushes: Sequence[Push]) -> None:
        raise AssertionError("no credential is replaced")

    def withdrawn(self, pushes: Iterable[Push]) -> Sequence[Push]:
        return ()

    def revoked(self, pushes: Iterable[Push]) -> bool:
        return False

    def may_send(self) -> bool:
        return True


async def test_building_requests_and_judging_answers_stay_within_their_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    reported = _Reported()
    options = ApnsOptions("https://localhost:1", "https://localhost:1", None, PoolOptions())
    apns = Apns(options, Context(reported, SystemNetwork(), time.time, random.Random()))
    apns.configure([apns_credential(pem.decode(), "KEYID12345")])
    requests: list[ApnsRequest] = []
    monkeypatch.setattr("tocsin.http2.pool.Pool.send", lambda self, batch: requests.extend(batch))
    pushes = []
    for number in range(COUNT):
        device = apns_device(owner=f"00000000-0000-4000-8000-{number:012d}")
        pushes.append(Push(Content(make_event(device.owner)), device, apns.route(device)))
    apns.send(pushes[:1])
    requests.clear()
    check("apns_send", calls(lambda: apns.send(pushes)))
    assert len(requests) == COUNT
    for request in requests:
        request.status = 200
        request.response_headers = ((b":status", b"200"), (b"apns-id", b"its own"))
    check("apns_finished", calls(lambda: apns._finished(requests)))
    assert len(reported.outcomes) == COUNT
    await asyncio.sleep(0)
    await apns.close()
