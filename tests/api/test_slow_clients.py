"""Clients that are slow, silent or endless: what they hold is bounded, and the others are served beside them."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest
from tests.api.raw_http import serving

from tocsin.api import events

pytestmark = pytest.mark.slow

LIVE = b"GET /health/live HTTP/1.1\r\nHost: tocsin\r\n\r\n"


@contextlib.asynccontextmanager
async def connected(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def last_answer(reader):
    """The answer after which the server ends the connection."""
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    head = head.lower()
    assert b"connection: close" in head
    assert b"content-type: application/problem+json" in head
    problem = json.loads(body)
    assert problem["status"] == int(head[9:12])
    assert {"type", "title", "detail"} <= problem.keys()
    return problem, head


async def eventually(holds, within_s=5.0):
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.fixture
async def server(api):
    async with serving(api.app, request_timeout_s=1, max_connections=4) as (port, server):
        yield port, server


ENDLESS = {
    "one header": (b"GET / HTTP/1.1\r\nX: ", b"x" * 4096),
    "many headers": (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 700),
    "the address": (b"GET /", b"x" * 4096),
    "empty lines": (b"", b"\r\n" * 2048),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_a_head_without_end_is_refused_when_it_gets_too_long(server, what):
    start, more = ENDLESS[what]
    async with connected(server[0]) as (reader, writer):
        writer.write(start)
        for _ in range(18):
            writer.write(more)
            await asyncio.sleep(0.001)
        problem, _ = await last_answer(reader)
    assert problem["status"] == 431
    await eventually(lambda: not server[1].server_state.connections)


async def test_a_head_that_is_too_long_is_refused_even_if_it_comes_in_one_piece(server):
    async with connected(server[0]) as (reader, writer):
        writer.write(LIVE[:-2] + b"X: y\r\n" * 12_000 + b"\r\n")
        assert (await last_answer(reader))[0]["status"] == 431


async def test_a_trailer_without_end_is_refused(api, server):
    chunked = (
        b"POST /api/events HTTP/1.1\r\nHost: tocsin\r\nAuthorization: Bearer %b\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\n{\r\n0\r\nX: "
    )
    async with connected(server[0]) as (reader, writer):
        writer.write(chunked % api.producer.encode())
        for _ in range(18):
            writer.write(b"x" * 4096)
            await asyncio.sleep(0.001)
        assert (await last_answer(reader))[0]["status"] == 431


async def test_a_large_body_is_not_taken_for_a_long_head(api, server):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server[0]}") as client:
        for _ in range(3):
            answer = await client.post(
                "/api/push", content=b"x" * 300_000, headers={"authorization": "Bearer " + api.sid}
            )
            assert answer.status_code == 413


async def test_malformed_http_is_answered_as_a_problem(server):
    for junk in (b"nonsense\r\n\r\n", LIVE[:-2] + b"Content-Length: nonsense\r\n\r\n"):
        async with connected(server[0]) as (reader, writer):
            writer.write(junk)
            problem, _ = await last_answer(reader)
        assert (problem["status"], problem["type"]) == (400, "urn:tocsin:problem:malformed-request")


LARGE_BYTES = 16_000_000


async def large_answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE_BYTES)]})
    await send({"type": "http.response.body", "body": b"x" * LARGE_BYTES, "more_body": False})


async def test_a_client_that_does_not_read_its_answer_is_cut():
    async with serving(large_answer, request_timeout_s=1) as (port, server), connected(port) as (reader, writer):
        reader._transport.pause_reading()
        writer.write(LIVE)
        await eventually(lambda: server.server_state.total_requests)
        assert server.server_state.connections
        await eventually(lambda: not server.server_state.connections)


async def test_a_client_that_is_slow_to_read_within_its_time_keeps_its_connection():
    async with serving(large_answer, request_timeout_s=2) as (port, _), connected(port) as (reader, writer):
        for pause_s in (1.1, 0):
            writer.write(LIVE)
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(pause_s)
            await reader.readexactly(LARGE_BYTES)
            await asyncio.sleep(2 * pause_s)


async def test_the_time_that_the_api_takes_to_read_a_body_is_not_the_clients():
    async def late(scope, receive, send):
        await asyncio.sleep(2.5)
        while (await receive())["more_body"]:
            pass
        await large_answer(scope, receive, send)

    async with serving(late, request_timeout_s=1) as (port, _):
        assert (await ingest(port, "key", b"x" * 20_000_000)).status_code == 200


async def test_a_connection_may_not_queue_requests_without_bound():
    running = asyncio.Event()

    async def silent(scope, receive, send):
        await running.wait()

    async with serving(silent) as (port, server):
        async with connected(port) as (_, writer):
            writer.write(LIVE * 20)
            await eventually(lambda: any(len(one.pipeline) == 19 for one in server.server_state.connections))
        async with connected(port) as (reader, writer):
            writer.write(LIVE * 2000)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
        running.set()


async def test_a_connection_too_many_is_told_so_and_the_others_are_served(server):
    port, running = server
    async with contextlib.AsyncExitStack() as held:
        first, *_ = [await held.enter_async_context(connected(port)) for _ in range(4)]
        await eventually(lambda: len(running.server_state.connections) == 4)
        async with connected(port) as (reader, writer):
            writer.write(b"POST /api/push HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
            problem, head = await last_answer(reader)
        assert problem["status"] == 503
        assert b"retry-after: 1" in head
        first[1].write(LIVE)
        assert (await first[0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_connections_too_many_are_not_kept(server):
    port, running = server
    async with contextlib.AsyncExitStack() as held:
        for _ in range(300):
            await held.enter_async_context(connected(port))
        assert len(running.server_state.connections) <= 4 + 256
        await eventually(lambda: len(running.server_state.connections) <= 4)


def batch(golden, lines):
    return (json.dumps(golden("fax_new")).encode() + b"\n") * lines


async def slow_uploads(held, port, key, count, sent):
    head = b"POST /api/events HTTP/1.1\r\nHost: tocsin\r\nAuthorization: Bearer %b\r\n"
    head += b"Content-Type: application/x-ndjson\r\n"
    for _ in range(count):
        _, writer = await held.enter_async_context(connected(port))
        writer.write(head % key.encode() + b"Content-Length: 8000000\r\n\r\n" + sent)
        await writer.drain()


async def ingest(port, key, body):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/x-ndjson"}
        return await client.post("/api/events", content=body, headers=headers)


async def test_a_large_batch_is_accepted_beside_many_slow_uploads(api, golden):
    async with serving(api.app, request_timeout_s=3) as (port, _), contextlib.AsyncExitStack() as held:
        await slow_uploads(held, port, api.producer, 24, b"x" * 100_000)
        async with asyncio.timeout(1):
            assert (await ingest(port, api.producer, batch(golden, 800))).status_code == 202


async def test_where_there_is_no_room_for_a_large_batch_its_producer_is_told_when_to_try_again(
    open_api, golden, monkeypatch
):
    monkeypatch.setattr(events, "_LARGE_BODIES_BYTES", 300_000)
    async with open_api() as api, serving(api.app) as (port, _):
        async with contextlib.AsyncExitStack() as held:
            await slow_uploads(held, port, api.producer, 2, b"x" * 140_000)
            await asyncio.sleep(0.2)
            answer = await ingest(port, api.producer, batch(golden, 800))
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "2"
            assert answer.headers["content-type"] == "application/problem+json"
            assert (await ingest(port, api.producer, batch(golden, 10))).status_code == 202
        await asyncio.sleep(0.2)
        for _ in range(3):
            assert (await ingest(port, api.producer, batch(golden, 800))).status_code == 202
