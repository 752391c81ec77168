"""One request for messages, on a real server: how it ends."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.sources.bus import STREAM, Bus

from tocsin.sources.pulling import Ask, ConsumerGone, Pull, PullRefused

pytestmark = pytest.mark.slow


@pytest.fixture
async def consumer(bus: Bus) -> str:
    """It takes no request for more than a hundred messages, which the client cannot ask for."""
    config = {"durable_name": "c", "ack_policy": "explicit", "max_batch": 100}
    asked = json.dumps({"stream_name": STREAM, "config": config}).encode()
    await bus.client.request(f"$JS.API.CONSUMER.CREATE.{STREAM}.c", asked, timeout=5)
    return "c"


async def test_it_ends_when_it_has_what_it_asked_for(bus: Bus, consumer: str) -> None:
    for number in range(5):
        await bus.publish(b"%d" % number)
    async with Pull(bus.client, STREAM, consumer, Ask(3, None, 5.0)) as pull:
        taken: list[bytes] = []
        while messages := await pull.take():
            taken += [message.data for message in messages]
    assert taken == [b"0", b"1", b"2"]


async def test_it_ends_when_its_time_is_over_and_heartbeats_keep_it_until_then(bus: Bus, consumer: str) -> None:
    started = asyncio.get_running_loop().time()
    async with Pull(bus.client, STREAM, consumer, Ask(3, None, 6.0)) as pull:
        assert await pull.take() == []
    assert asyncio.get_running_loop().time() - started >= 5.5, "longer than it waits for a heartbeat"


async def test_a_message_larger_than_what_was_asked_for_is_told_apart(bus: Bus, consumer: str) -> None:
    await bus.publish(b"x" * 5000)
    async with Pull(bus.client, STREAM, consumer, Ask(3, 1000, 5.0)) as pull:
        assert await pull.take() == []
        assert pull.too_large
    async with Pull(bus.client, STREAM, consumer, Ask(1, None, 5.0)) as pull:
        assert len(await pull.take()) == 1


async def test_a_consumer_that_is_not_there_and_one_that_is_deleted_meanwhile_are_gone(bus: Bus, consumer: str) -> None:
    async with Pull(bus.client, STREAM, "missing", Ask(3, None, 5.0)) as pull:
        with pytest.raises(ConsumerGone, match=r"^nobody answers for the consumer$"):
            await pull.take()
    async with Pull(bus.client, STREAM, consumer, Ask(3, None, 5.0)) as pull:
        taking = asyncio.create_task(pull.take())
        await asyncio.sleep(0.2)
        await bus.js.delete_consumer(STREAM, consumer)
        with pytest.raises(ConsumerGone):
            await taking


async def test_what_the_consumer_does_not_allow_is_told_in_its_words(bus: Bus, consumer: str) -> None:
    async with Pull(bus.client, STREAM, consumer, Ask(101, None, 5.0)) as pull:
        with pytest.raises(PullRefused, match="MaxRequestBatch of 100"):
            await pull.take()


async def test_ending_it_lets_whoever_waits_go_on(bus: Bus, consumer: str) -> None:
    async with Pull(bus.client, STREAM, consumer, Ask(3, None, 5.0)) as pull:
        taking = asyncio.create_task(pull.take())
        await asyncio.sleep(0.1)
        pull.end()
        assert await taking == []


async def test_what_had_come_when_it_is_left_can_be_given_back_and_goes_to_the_next_request(
    bus: Bus, consumer: str
) -> None:
    for number in range(3):
        await bus.publish(b"%d" % number)
    async with Pull(bus.client, STREAM, consumer, Ask(100, None, 30.0)) as pull:
        taken = await pull.take()
        taken += await pull.leave()
        assert [message.data for message in taken] == [b"0", b"1", b"2"]
        for message in taken:
            await message.nak()
        async with Pull(bus.client, STREAM, consumer, Ask(3, None, 5.0)) as other:
            again: list[bytes] = []
            while messages := await other.take():
                again += [message.data for message in messages]
        # In any order: the server puts a message that it could not give to the request that was left at the end.
        assert sorted(again) == [b"0", b"1", b"2"]
        assert await pull.take() == []
