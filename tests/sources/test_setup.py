"""What a source says of its stream when it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from nats.js.api import StorageType, StreamConfig
from tests.sources.bus import STREAM, Bus, encoded, eventually, fax, nats_settings, taking
from tests.support.nats import NatsServer

from tocsin.sources.consumers import look_at_stream


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "fewer than three replicas"),
        ({"storage": StorageType.MEMORY}, "the stream is in memory"),
        ({"no_ack": True}, "the stream acknowledges nothing"),
    ],
)
async def test_what_a_producers_acknowledgement_is_not_worth_is_said(
    bus: Bus, server: NatsServer, options: dict[str, object], told: str
) -> None:
    await bus.js.delete_stream(STREAM)
    await bus.js.add_stream(StreamConfig(STREAM, subjects=["events.>"], **options))  # type: ignore[arg-type]
    stream = await look_at_stream(bus.js, nats_settings(server))
    assert told in stream.weaknesses[0]


@pytest.mark.slow
async def test_it_is_said_in_the_log_once_a_stream(bus: Bus, server: NatsServer, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with taking(tmp_path, nats_settings(server)) as taken:
            await bus.publish(encoded(fax(1)))
            await taken.has(1)
            await bus.js.delete_consumer(STREAM, "tocsin")
            await bus.publish(encoded(fax(2)))
            await taken.has(2)
    warnings = [line for line in lines if "sync_interval" in line["event"]]
    assert [(line["log_level"], line["stream"]) for line in warnings] == [("warning", STREAM)]
    said = " ".join(str(line) for line in lines)
    assert fax(1)["owner"] not in said


@pytest.mark.slow
async def test_a_stream_that_is_not_there_is_named_until_it_is(server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    await bus.js.delete_stream(STREAM)
    async with taking(tmp_path, nats_settings(server)) as taken:
        await eventually(lambda: taken.source.problems() == [f"nats: there is no stream '{STREAM}'; create it"])
        await bus.js.add_stream(StreamConfig(STREAM, subjects=["events.>"]))
        await bus.publish(encoded(fax(1)))
        await taken.has(1)
        await eventually(lambda: taken.source.problems() == [])
