"""What fails at a provider is in the log, with its event and what happens next; what succeeds is not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.support.line import apns_device, make_event, running_line

from tocsin.emulator.faults import Match, Rule

pytestmark = pytest.mark.slow

LANE = "apns:production:39JSDKGJ38.de.cospace.app"


async def test_each_failure_has_a_line_with_its_event_and_what_happens_next_and_no_success_has_one(
    tmp_path: Path,
) -> None:
    async with running_line(tmp_path) as line:
        owners = {name: f"00000000-0000-4000-8000-{number:012d}" for number, name in enumerate("abcdef")}
        devices = {name: apns_device(owner=owner) for name, owner in owners.items()}
        await line.register(*devices.values())
        tokens = {name: device.token for name, device in devices.items()}
        line.script(
            Rule(match=Match(token=tokens["a"]), status=400, reason="SomethingNew"),
            Rule(
                match=Match(token=tokens["b"]),
                status=410,
                reason="Unregistered",
                timestamp=int(time.time() * 1000) + 60_000,
            ),
            Rule(match=Match(token=tokens["c"]), status=500, reason="InternalServerError", times=1),
            Rule(match=Match(token=tokens["d"]), status=400, reason="BadMessageId"),
        )
        events = {name: make_event(owner) for name, owner in owners.items()}
        events["f"] = make_event(owners["f"], lifetime_s=-1)
        with capture_logs() as lines:
            await line.append(*events.values())
            await line.finished(*[events[name] for name in "abdef"])
            await line.attempted(events["c"])
    told = {entry["event_id"]: entry for entry in lines if "event_id" in entry}
    assert set(told) == {event.id for name, event in events.items() if name != "e"}
    refused, dead, retried, our_bug, expired = (told[events[name].id] for name in "abcdf")
    assert (refused["event"], refused["lane"], refused["status"]) == ("delivery failed", LANE, 400)
    assert refused["reason"] == "SomethingNew"
    assert refused["device"] == f"apns:{tokens['a'][:8]}…"
    assert "replay" in refused["next"]
    assert (dead["result"], dead["log_level"]) == ("token_dead", "info")
    assert "registers anew" in dead["next"]
    assert (retried["event"], retried["result"]) == ("attempt failed", "retry")
    assert retried["next"].startswith("tried again in ")
    assert (our_bug["log_level"], our_bug["reason"]) == ("error", "BadMessageId")
    assert (expired["result"], expired["reason"]) == ("expired", "lifetime over")
    assert not any(token in str(lines) for token in tokens.values())


async def test_a_paused_lane_says_when_the_next_try_is(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = apns_device()
        await line.register(device)
        line.script(Rule(status=403, reason="InvalidProviderToken"))
        event = make_event()
        with capture_logs() as lines:
            await line.append(event)
            await line.attempted(event)
    [paused] = [entry for entry in lines if entry["event"] == "lane paused: misconfigured"]
    assert (paused["lane"], paused["reason"], paused["next_try_in_s"]) == (LANE, "InvalidProviderToken", 60.0)
    [attempt] = [entry for entry in lines if entry["event"] == "attempt failed"]
    assert (attempt["event_id"], attempt["result"]) == (event.id, "misconfigured")
