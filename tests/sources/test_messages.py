"""What messages of the stream become: events, once, or refusals with the reason."""

from __future__ import annotations

import json
import time
from pathlib import Path
from uuid import UUID

import pytest
from nats.js.api import AckPolicy, StreamConfig
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from tests.sources.bus import NORMAL, STREAM, URGENT, Bus, encoded, eventually, fax, nats_settings, taking
from tests.support.nats import NatsServer

from tocsin.service.tracing import Tracing
from tocsin.settings import Tracing as TracingSettings
from tocsin.sources.consumption import is_batch

pytestmark = pytest.mark.slow

ID = "5f0c1f3a-6f5b-4d7e-9a63-0d0a53f4a5b1"
DAY_MS = 24 * 3600 * 1000


async def test_a_message_is_one_event_and_acknowledged_after_it_is_durable(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(7, id=ID)))
        await taken.has(1)
        await eventually(bus.is_done)
        (record,) = await taken.records()
        assert (record.event.id, record.event.message) == (ID, "fax_new")
        assert json.loads(record.event.body)["page_count"] == 7


async def test_a_message_may_be_a_batch_of_lines(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1), fax(2), fax(3)))
        await bus.publish(encoded(fax(4)) + b"\n", headers={"Content-Type": "application/x-ndjson"})
        await taken.has(4)
        pages = [json.loads(record.event.body)["page_count"] for record in await taken.records()]
        assert pages == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("body", "content_type", "batch"),
    [
        (b'{"a": 1}', None, False),
        (b'{"a": 1}\n', None, False),
        (b'{\n  "a": 1\n}\n', None, False),
        (b'{"a": 1}\n{"a": 2}', None, True),
        (b'{"a": 1}\r\n{"a": 2}\r\n', None, True),
        (b'{"a": 1}\n', "application/x-ndjson", True),
        (b'{"a": 1}\n', "Application/X-NDJSON; charset=utf-8", True),
        (b'{"a": {}\n}', "application/json", False),
        (b"", None, False),
    ],
)
def test_what_a_batch_is(body: bytes, content_type: str | None, batch: bool) -> None:
    assert is_batch(body, content_type) is batch


async def test_an_event_without_an_id_has_one_that_its_message_decides(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    """By it a redelivery is known: the consumer is deleted here, so that all comes again."""
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1), fax(1)))
        await bus.publish(encoded(fax(1)), headers={"Nats-Msg-Id": "order-4711"})
        await taken.has(3)
        ids = await taken.ids()
        assert len(set(ids)) == 3
        assert {UUID(id).version for id in ids} == {8}
    await bus.js.delete_consumer("EVENTS", "tocsin")
    async with taking(tmp_path, nats_settings(server)) as taken:
        await eventually(bus.is_done)
        assert await taken.ids() == ids


async def test_the_same_message_id_is_the_same_event_wherever_it_lies_in_the_stream(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    await bus.js.delete_stream("EVENTS")
    await bus.js.add_stream(name="EVENTS", subjects=["events.>"], duplicate_window=0.1)
    async with taking(tmp_path, nats_settings(server)) as taken:
        first = await bus.publish(encoded(fax(1)), headers={"Nats-Msg-Id": "a"})
        await taken.has(1)
        await eventually(lambda: _published_again(bus, first))
        await eventually(bus.is_done)
        assert await taken.count() == 1


async def _published_again(bus: Bus, first: int) -> bool:
    """The stream has forgotten the id, and stores the message anew."""
    return await bus.publish(encoded(fax(1)), headers={"Nats-Msg-Id": "a"}) > first


async def test_a_lifetime_begins_at_the_messages_timestamp(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    published_ms = time.time() * 1000
    await bus.publish(encoded(fax(1)))
    published_ms = (published_ms + time.time() * 1000) / 2
    await eventually(lambda: time.time() * 1000 > published_ms + 1500)
    async with taking(tmp_path, nats_settings(server)) as taken:
        await taken.has(1)
        (record,) = await taken.records()
        assert record.event.expires_ms == pytest.approx(published_ms + 28 * DAY_MS, abs=1000)
        assert record.event.accepted_ms >= published_ms + 1500
        await eventually(lambda: taken.metric("tocsin_source_lag_seconds", consumer="tocsin") >= 1.5)


async def test_urgent_events_never_wait_behind_others(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    for number in range(1, 301):
        await bus.publish(encoded(*[fax(number * 1000 + line) for line in range(20)]))
    call = {"owner": fax()["owner"], "message": "dialplan_callreverse_start", "phone_from": "", "phone_to": ""}
    await bus.publish(encoded(call | {"event_id": ID}), subject=URGENT)
    async with taking(tmp_path, nats_settings(server, batch=10)) as taken:
        await taken.has(6001)
        assert (await taken.ids()).index(ID) < 2000
        await eventually(lambda: bus.is_done("tocsin-urgent"))


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_what_http_would_refuse_goes_to_the_refusals_with_the_reason(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    settings = {"ingest": {"max_events": 3, "max_bytes": 2000}}
    async with taking(tmp_path, nats_settings(server), settings=settings) as taken:
        await bus.publish(encoded(fax(1, id=ID)))
        await bus.publish(encoded(fax(2), fax(3, page_count="many")), headers={"Nats-Msg-Id": "two"})
        await bus.publish(b"\xff\x00 no JSON")
        await bus.publish(encoded(fax(4, id=ID)))
        await bus.publish(encoded(*[fax(5)] * 4))
        await bus.publish(encoded(fax(6, phone="0" * 2000)))
        sequence = await bus.publish(encoded(fax(7)))
        two, no_json, conflict, lines, size = await bus.refusals(5)
        await taken.has(2)
        await eventually(bus.is_done)
    assert sequence == 7
    assert two.headers is not None
    assert (two.headers["Tocsin-Status"], two.headers["Tocsin-Sequence"]) == ("400", "2")
    assert (two.headers["Tocsin-Subject"], two.headers["Tocsin-Msg-Id"]) == (NORMAL, "two")
    assert json.loads(two.headers["Tocsin-Problem"]) == {
        "type": "urn:tocsin:problem:bad-input",
        "title": "Bad input",
        "status": 400,
        "detail": "line 2: $.page_count: Expected `int`, got `str`",
        "errors": [{"at": "$.page_count", "line": 2, "reason": "Expected `int`, got `str`"}],
    }
    assert two.data == encoded(fax(2), fax(3, page_count="many"))
    statuses = [(message.headers or {})["Tocsin-Status"] for message in (no_json, conflict, lines, size)]
    assert statuses == ["400", "409", "413", "413"]
    assert taken.metric("tocsin_source_refused_total", consumer="tocsin", status="413") == 2


async def test_a_conflict_within_a_batch_of_messages_refuses_the_one_message(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    for number in range(1, 51):
        await bus.publish(encoded(fax(number), fax(number + 100, id=str(UUID(int=number % 48)))))
    async with taking(tmp_path, nats_settings(server)) as taken:
        first, second = await bus.refusals(2)
        await taken.has(96)
    assert [(message.headers or {})["Tocsin-Sequence"] for message in (first, second)] == ["49", "50"]
    detail = json.loads((first.headers or {})["Tocsin-Problem"])["detail"]
    assert detail == "line 2: $.event_id: was used before for an event with other content"


async def test_a_message_whose_refusal_no_stream_takes_is_kept_and_the_others_go_on(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    await bus.js.delete_stream("REFUSED")
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(b"no JSON")
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        await eventually(lambda: any("no stream takes refused.events" in one for one in taken.source.problems()))
        assert await bus.unacknowledged() == 1


async def test_very_many_messages_whose_refusals_no_stream_takes_hold_up_no_other(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    await bus.js.delete_stream("REFUSED")
    for _ in range(25):
        await bus.publish(b"no JSON")
    await bus.publish(encoded(fax(1)))
    async with taking(tmp_path, nats_settings(server, batch=5)) as taken:
        await taken.has(1, within_s=15)
        assert await bus.unacknowledged() == 25


@pytest.mark.parametrize(("description", "most"), [("tocsin", None), ("somebody's", 20)])
async def test_a_consumer_that_an_older_version_made_gets_the_larger_limit_and_nobody_elses_does(
    bus: Bus, server: NatsServer, tmp_path: Path, description: str, most: int | None
) -> None:
    await bus.js.add_consumer(
        STREAM,
        durable_name="tocsin",
        description=description,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=7,
        max_ack_pending=20,
        filter_subject=NORMAL,
    )
    async with taking(tmp_path, nats_settings(server)) as taken:
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        config = (await bus.js.consumer_info(STREAM, "tocsin")).config
        made = (await bus.js.consumer_info(STREAM, "tocsin-urgent")).config
    assert config.max_ack_pending == (most or made.max_ack_pending)
    assert config.ack_wait == 7


async def test_where_the_servers_allow_fewer_unacknowledged_messages_a_consumer_is_made_with_fewer(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    await bus.js.delete_stream(STREAM)
    config = StreamConfig(STREAM, subjects=["events.>"]).as_dict() | {"consumer_limits": {"max_ack_pending": 3000}}
    await bus.client.request(f"$JS.API.STREAM.CREATE.{STREAM}", json.dumps(config).encode())
    async with taking(tmp_path, nats_settings(server, batch=5)) as taken:
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        assert (await bus.js.consumer_info(STREAM, "tocsin")).config.max_ack_pending == 20
    await bus.publish(encoded(fax(2)))
    async with taking(tmp_path, nats_settings(server, batch=5)) as taken:
        await taken.has(2)


async def test_a_message_that_is_almost_as_large_as_the_server_allows_is_refused_without_its_body(
    bus: Bus, server: NatsServer, tmp_path: Path
) -> None:
    body = b"x" * (bus.client.max_payload - 100)
    async with taking(tmp_path, nats_settings(server)):
        await bus.publish(body)
        (refusal,) = await bus.refusals(1)
    assert refusal.data == b""
    assert (refusal.headers or {})["Tocsin-Body"].startswith("left out")


async def test_the_producers_trace_comes_in_a_header(bus: Bus, tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(
        TracingSettings(endpoint="http://127.0.0.1:1/", ratio=0.0),
        lambda: int(time.time() * 1000),
        lambda lane, exemplar: None,
        exporter,
    )
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with taking(tmp_path, nats_settings(*bus.servers), traces=traces) as source:
        await bus.publish(encoded(fax(1)), headers={"Traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        await bus.publish(encoded(fax(2)))
        await source.has(2)
        traced = [record.event.trace for record in await source.records()]
    traces.close()
    (span,) = exporter.get_finished_spans()
    assert (f"{span.context.trace_id:032x}", span.kind) == (trace, SpanKind.CONSUMER)
    assert [trace.encode() in one for one in traced] == [True, False]
