"""Pushes that wait for a connection, a stream or an access token: who is first, and who must not go any more."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
from tests.support.line import APPLICATION, OWNER, Line, apns_device, fcm_device, make_event, running_line
from tests.support.relay import copy

from tocsin.delivery.lane import LaneOptions
from tocsin.domain.routes import LaneState
from tocsin.emulator.faults import Latency, Match, Rule
from tocsin.http2 import dial
from tocsin.http2.pool import PoolOptions
from tocsin.store.records import Result

pytestmark = pytest.mark.slow

ONE_STREAM = PoolOptions(max_connections=1, max_streams=1)


async def delete(line: Line, system: str, token: str) -> None:
    """What the API does, in its order."""
    await line.store.registry.delete(OWNER, system, token)  # type: ignore[arg-type]


async def test_a_token_deleted_while_its_push_waits_for_a_stream_is_not_rung(tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=ONE_STREAM) as line:
        device = apns_device()
        await line.register(device)
        line.script(latency=Latency(fixed_ms=200))
        events = [make_event() for _ in range(10)]
        await line.append(*events)
        await asyncio.sleep(0.3)
        await delete(line, "apns", device.token)
        deleted_at = len(line.emulator.inbox.find())
        records = await line.finished(*events)
        results = [record.attempts[-1].result for record in records]
        assert results.count(Result.CANCELLED) >= 7
        # The one that was on the wire, and no other.
        assert len(line.emulator.inbox.find()) <= deleted_at + 1


async def test_what_waits_for_an_access_token_goes_before_what_was_accepted_later(tmp_path: Path) -> None:
    """The place of a push that was withdrawn meanwhile was given to a later event, which was sent before those that had
    waited: the end of a call before its beginning."""
    async with running_line(tmp_path, lane=LaneOptions(2, 40)) as line:
        gone, device = fcm_device(), fcm_device()
        await line.register(gone, device)
        line.script(Rule(match=Match(provider="oauth"), delay_s=0.7))
        kinds = ["dialplan_callreverse_start", "dialplan_callreverse_stop"]
        events = [make_event(message=kind) for kind in kinds]
        await line.append(events[0])
        await asyncio.sleep(0.3)
        await delete(line, "fcm", gone.token)
        await line.append(events[1])
        await line.finished(*events)
        bodies = [str(push["body"]) for push in line.emulator.inbox.find()]
        assert [next(kind for kind in kinds if kind in body) for body in bodies] == kinds


async def test_a_token_deleted_while_its_push_waits_for_an_access_token_is_not_rung(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        device = fcm_device()
        await line.register(device)
        line.script(Rule(match=Match(provider="oauth"), delay_s=0.7))
        event = make_event()
        await line.append(event)
        await asyncio.sleep(0.3)
        await delete(line, "fcm", device.token)
        [record] = await line.finished(event)
        assert [attempt.result for attempt in record.attempts] == [Result.CANCELLED]
        assert line.emulator.inbox.find() == []


async def test_what_outlives_its_lifetime_while_it_waits_for_a_stream_is_expired_and_not_sent(tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=ONE_STREAM) as line:
        await line.register(apns_device())
        line.script(latency=Latency(fixed_ms=250))
        events = [make_event(lifetime_s=1) for _ in range(12)]
        await line.append(*events)
        records = await line.finished(*events)
        results = [record.attempts[-1].result for record in records]
        assert results.count(Result.EXPIRED) >= 6
        # An answer may come after the end of the lifetime, but nothing is sent after it.
        expires_s = events[0].expires_ms / 1000
        assert all(entry["time"] <= expires_s + 0.1 for entry in line.emulator.inbox.find())


async def test_urgent_events_overtake_what_waits_for_a_stream(tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=ONE_STREAM, lane=LaneOptions(4000, 8000)) as line:
        await line.register(apns_device())
        line.script(latency=Latency(fixed_ms=20))
        bulk = [make_event() for _ in range(100)]
        await line.append(*bulk)
        await asyncio.sleep(0.3)
        urgent = make_event(message="dialplan_callreverse_start")
        await line.append(urgent)
        [record] = await line.finished(urgent)
        ended = record.attempts[-1].at_ms
        records = await line.finished(*bulk)
        assert sum(one.attempts[-1].at_ms > ended for one in records) > 40


async def test_an_urgent_event_that_is_due_again_does_not_wait_for_the_end_of_a_flood_of_others(tmp_path: Path) -> None:
    """Its lane is more than half full all the time, so that nothing else that is parked comes back."""
    async with running_line(tmp_path, pool=ONE_STREAM, lane=LaneOptions(1, 40)) as line:
        await line.register(apns_device())
        line.script(
            Rule(status=503, reason="ServiceUnavailable", headers={"retry-after": "3"}, times=1),
            latency=Latency(fixed_ms=50),
        )
        urgent = make_event(message="dialplan_callreverse_start")
        await line.append(urgent)
        await line.attempted(urgent)

        async def flood() -> None:
            while True:
                await line.append(*[make_event() for _ in range(40)])
                await asyncio.sleep(0.2)

        flooding = asyncio.create_task(flood())
        try:
            [record] = await line.finished(urgent, timeout_s=15)
        finally:
            flooding.cancel()
        assert [attempt.result for attempt in record.attempts] == [Result.RETRY, Result.DELIVERED]


async def test_answers_to_a_credential_that_was_replaced_meanwhile_do_not_pause_the_lane(tmp_path: Path) -> None:
    async with running_line(tmp_path) as line:
        await line.register(apns_device())
        line.script(Rule(status=403, reason="InvalidProviderToken", delay_s=0.5, times=3))
        events = [make_event() for _ in range(3)]
        await line.append(*events)
        await asyncio.sleep(0.2)
        # Taken away and added again: what the one before is told of its key is no longer of interest.
        line.providers["apns"].configure([])
        await line.configure()
        records = await line.finished(*events)
        assert {record.attempts[-1].result for record in records} == {Result.DELIVERED}
        assert line.lane(f"apns:production:{APPLICATION}").state is LaneState.RUNNING


async def test_a_stop_gives_back_what_waits_and_every_push_comes_back(tmp_path: Path) -> None:
    async with running_line(tmp_path, pool=ONE_STREAM, drain_s=0.3) as line:
        await line.register(apns_device())
        line.script(latency=Latency(fixed_ms=100))
        await line.append(*[make_event() for _ in range(50)])
        await asyncio.sleep(0.3)
        began = time.monotonic()
    # `running_line` awaits the dispatcher's end: it would hang on a push that never came back.
    assert time.monotonic() - began < 5
    assert line.dispatcher._receipts.out == 0


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_proxys_tunnel_works_with_either_version_of_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: ssl.TLSVersion
) -> None:
    made = dial.client_tls

    def limited(*arguments: Path | None) -> ssl.SSLContext:
        context = made(*arguments)
        context.maximum_version = newest
        return context

    monkeypatch.setattr("tocsin.providers.apns.channels.client_tls", limited)

    tasks = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        port = int(head.split(b" ")[1].rsplit(b":", 1)[1])
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        both = ((reader, up_writer), (up_reader, writer))
        tasks.extend(asyncio.create_task(copy(*pair)) for pair in both)

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with running_line(tmp_path, pool=PoolOptions(proxy=url)) as line:
        await line.register(apns_device())
        event = make_event()
        await line.append(event)
        [record] = await line.finished(event)
        assert record.attempts[-1].result == Result.DELIVERED
    for task in tasks:
        task.cancel()
    server.close()
