"""Events of many tasks and threads, gathered into batches."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.client.conftest import a_fax
from tests.support.https_server import HttpsServer, Reply

from tocsin_client import AsyncBuffer, AsyncClient, BadInput, Buffer, Client, TocsinError, Unavailable
from tocsin_client.testing import LocalTocsin


async def test_the_events_of_a_thousand_tasks_are_durable_when_their_call_returns(tocsin: LocalTocsin) -> None:
    events = [a_fax(page_count=number) for number in range(1000)]
    async with AsyncClient(tocsin.url, tocsin.key) as client, AsyncBuffer(client, most_waiting=100) as buffer:
        ids = await asyncio.gather(*map(buffer.send, events))
        found = await client.look(ids[999])
    assert len(set(ids)) == 1000
    assert found.event_id == ids[999]


def test_the_events_of_many_threads_are_durable_when_their_call_returns(tocsin: LocalTocsin) -> None:
    with Client(tocsin.url, tocsin.key) as client, Buffer(client) as buffer, ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(buffer.send, [a_fax() for _ in range(500)]))
        assert client.look(ids[499]).event_id == ids[499]
    assert len(set(ids)) == 500


async def test_only_the_task_whose_event_is_refused_hears_of_it(tocsin: LocalTocsin) -> None:
    events = [a_fax(page_count=-1 if number == 7 else 1) for number in range(20)]
    async with AsyncClient(tocsin.url, tocsin.key) as client, AsyncBuffer(client) as buffer:
        ends = await asyncio.gather(*map(buffer.send, events), return_exceptions=True)
    assert [number for number, end in enumerate(ends) if isinstance(end, BadInput)] == [7]
    assert sum(isinstance(end, str) for end in ends) == 19


def test_leaving_the_block_hands_in_what_is_left(tocsin: LocalTocsin) -> None:
    with Client(tocsin.url, tocsin.key) as client:
        with Buffer(client) as buffer:
            futures = [buffer.put(a_fax()) for _ in range(50)]
        assert all(future.done() and future.result() for future in futures)


def test_every_event_has_an_end_where_the_server_is_away(options: dict[str, Any], https: HttpsServer) -> None:
    https.say("/api/events", Reply(status=503))
    with Client(**{**options, "give_up_after_s": 0.2}) as client, Buffer(client) as buffer:
        futures = [buffer.put(a_fax()) for _ in range(3)]
        assert all(isinstance(future.exception(timeout=30), Unavailable) for future in futures)


def test_a_client_that_is_closed_too_early_leaves_no_task_waiting(tocsin: LocalTocsin) -> None:
    client = Client(tocsin.url, tocsin.key)
    client.close()
    with Buffer(client) as buffer, pytest.raises(TocsinError, match="could not be handed in"):
        buffer.send(a_fax())


async def test_a_buffer_that_is_not_open_says_so(tocsin: LocalTocsin) -> None:
    async with AsyncClient(tocsin.url, tocsin.key) as client:
        with pytest.raises(RuntimeError, match="async with"):
            await AsyncBuffer(client).send(a_fax())


class _Held:
    """A client whose first batch waits until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.get_running_loop().create_future()

    async def send_each(self, events: list[Any]) -> list[str]:
        await self.let_go
        return ["durable"] * len(events)


async def test_who_waits_for_a_place_when_the_block_is_left_gets_an_answer() -> None:
    client: Any = _Held()
    async with AsyncBuffer(client, most_waiting=2) as buffer:
        tasks = [asyncio.create_task(buffer.send(a_fax())) for _ in range(10)]
        await asyncio.sleep(0.01)
        client.let_go.set_result(None)
        await asyncio.sleep(0)  # the buffer has taken two, and who waits for their places has not run yet
    assert await asyncio.wait_for(asyncio.gather(*tasks), timeout=10) == ["durable"] * 10


async def test_who_waits_for_a_place_and_gives_up_does_not_keep_the_block_from_being_left(tocsin: LocalTocsin) -> None:
    async with AsyncClient(tocsin.url, tocsin.key) as client:
        async with AsyncBuffer(client, most_waiting=1) as buffer:
            tasks = [asyncio.create_task(buffer.put(a_fax())) for _ in range(20)]
            await asyncio.sleep(0)
            for task in tasks[5:]:
                task.cancel()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=30)
    futures = [end for end in ends if isinstance(end, asyncio.Future)]
    assert len(futures) >= 5
    assert all(future.done() for future in futures)


def test_threads_that_wait_for_a_place_when_the_block_is_left_get_an_answer(tocsin: LocalTocsin) -> None:
    started = threading.Barrier(21)

    def send(buffer: Buffer) -> str:
        started.wait()
        return buffer.send(a_fax())

    with Client(tocsin.url, tocsin.key) as client, ThreadPoolExecutor(20) as pool:
        with Buffer(client, most_waiting=1) as buffer:
            ends = [pool.submit(send, buffer) for _ in range(20)]
            started.wait()
        found = [end.exception(timeout=30) or end.result() for end in ends]
    # Who came when it was closed already is told so.
    assert all(isinstance(one, (str, RuntimeError)) for one in found)
