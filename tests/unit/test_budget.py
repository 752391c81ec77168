"""A guard for the hot path that is not a timed test: Python function calls per delivery, against a budget.

Calls are counted by the interpreter's own profiling hook, so the count is the same on every machine. When a budget is
exceeded, a loop has gained a call per delivery: that is what made the difference between 24 and 37 microseconds once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.line import APPLICATION, apns_device, make_event

from tocsin.delivery.dispatcher import Dispatcher, DispatcherOptions
from tocsin.delivery.lanes import LaneOptions
from tocsin.domain.events import parse_event
from tocsin.domain.outcomes import Answer, Delivered, Outcome
from tocsin.http2.messages import Request
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns import Apns, ApnsCredential, ApnsOptions
from tocsin.providers.base import Push
from tocsin.store.ports import Item
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


def test_parsing_an_event_stays_within_its_budget() -> None:
    raw = make_event(message="dialplan_callreverse_start").body
    check("parse_event", calls(lambda: [parse_event(raw) for _ in range(COUNT)]))


class _Instant:
    """A provider that takes everything, and reports when told."""

    def __init__(self) -> None:
        self.taken: list[Push] = []

    def route(self, device: Any) -> Any:
        from tocsin.domain.lanes import Route

        return self.__dict__.setdefault("_route", Route(f"apns:production:{APPLICATION}"))

    def send(self, pushes: Sequence[Push]) -> None:
        self.taken += pushes

    async def close(self) -> None: ...


async def test_dispatching_and_reporting_stay_within_their_budget() -> None:
    options = DispatcherOptions(LaneOptions(10_000, 10_000, 10_000), 120.0, 35.0)
    dispatcher = Dispatcher(None, None, options, Metrics())  # type: ignore[arg-type]
    provider = _Instant()
    dispatcher.use({"apns": provider})
    devices: dict[Any, Any] = {}
    items = []
    for number in range(COUNT):
        owner = f"00000000-0000-4000-8000-{number:012d}"
        devices[owner] = [apns_device(owner=owner)]
        items.append(Item(make_event(owner), number, number))
    check("dispatch", calls(lambda: dispatcher._dispatch(items, devices)))
    assert len(provider.taken) == COUNT
    outcome: Outcome = Delivered(Answer(200, ""))
    check("report", calls(lambda: dispatcher.report([(push, outcome) for push in provider.taken])))
    settlements: list[Any] = []
    check("settlement", calls(lambda: settlements.extend(opened.settlement() for opened in dispatcher._finished)))
    assert len(settlements) == COUNT


async def test_building_requests_and_judging_answers_stay_within_their_budget(monkeypatch: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    reported: list[Any] = []
    options = ApnsOptions("https://localhost:1", "https://localhost:1", None, PoolOptions())
    apns = Apns(options, reported.extend)
    apns.configure([ApnsCredential(APPLICATION, pem.decode(), "KEYID12345", None)])
    requests: list[Request] = []
    monkeypatch.setattr("tocsin.http2.pool.Pool.send", lambda self, batch: requests.extend(batch))
    from tocsin.providers.base import Rendering

    pushes = []
    for number in range(COUNT):
        device = apns_device(owner=f"00000000-0000-4000-8000-{number:012d}")
        pushes.append(Push(Rendering(make_event(device.owner)), device, apns.route(device), None, 0))
    apns.send(pushes[:1])
    requests.clear()
    check("apns_send", calls(lambda: apns.send(pushes)))
    assert len(requests) == COUNT
    for request in requests:
        request.status = 200
        request.response_headers = ((b":status", b"200"), (b"apns-id", b"its own"))
    check("apns_finished", calls(lambda: apns._finished(requests)))
    assert len(reported) == COUNT
    await asyncio.sleep(0)
    await apns.close()
