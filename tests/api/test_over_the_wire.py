"""The API behind its server, over sockets: what clients send that no client library would."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from tests.api.raw_http import serving

from tocsin.settings import Server

pytestmark = pytest.mark.slow


@pytest.fixture
async def port(api):
    async with serving(api.app) as (port, _):
        yield port


async def exchange(port, request, *, end=False):
    """Send bytes; the answer's status, and everything that came with it until the server was done with it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    if end:
        writer.write_eof()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = next((int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")), 0)
    body = b"" if request.startswith(b"HEAD") else await reader.readexactly(length)
    writer.close()
    return int(head[9:12]), head.lower(), body


def request(method, path, *headers, body=b""):
    lines = [f"{method} {path} HTTP/1.1", "Host: tocsin", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@pytest.mark.parametrize(
    ("junk", "statuses"),
    [
        (request("GET", "/api/push", "Authorization: Bearer \xff\x80"), {401}),
        (request("GET", "/api/push", "Cookie: =;;;=\xff; sid"), {401}),
        (request("GET", "/api/push?%00%ff=%zz&sid=%"), {401}),
        (request("GET", "/%00/%ff/..;/etc"), {404}),
        (request("GET", "/api/../api/push"), {404}),
        (request("GET", "/" + "a" * 20_000), {404, 400, 414}),
        (request("GET", "http://elsewhere/api/push"), {401, 404}),
        (request("GET", "/\xff\xfe"), {400, 404}),
        (request("GET", "/api/events/%0a%0d", "X: y"), {404}),
        (request("GET", "/api/admin/devices?token=%ff%fe"), {401}),
        (request("POST", "/api/push", "Content-Type: \xff/\xff; charset"), {401}),
        (b"GET /api/push HTTP/1.1\r\nHost: a b\r\n\r\n", {400, 401}),
        (b"GET /nope HTTP/1.1\r\nHost: <script>\r\n\r\n", {400}),
        (b"nonsense\r\n\r\n", {400}),
        (b"GET /api/push HTTP/1.1\r\nContent-Length: nonsense\r\n\r\n", {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    ],
)
async def test_junk_is_answered_with_4xx(port, junk, statuses):
    status, _, _ = await exchange(port, junk)
    assert status in statuses


async def test_head_has_the_headers_of_get_and_no_body(api, port):
    bearer = f"Authorization: Bearer {api.sid}"
    status, head, _ = await exchange(port, request("HEAD", "/api/push", bearer))
    _, _, body = await exchange(port, request("GET", "/api/push", bearer))
    assert status == 200
    assert f"content-length: {len(body)}".encode() in head


async def test_a_connection_serves_on_after_a_refused_body(api, port):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        headers = {"authorization": f"Bearer {api.sid}"}
        for _ in range(3):
            assert (await client.post("/api/push", content=b"x" * 300_000, headers=headers)).status_code == 413
            assert (await client.get("/api/push", headers=headers)).status_code == 200


async def test_a_chunked_body_is_read_like_any_other(api, port, golden):
    async def chunks():
        for byte in json.dumps(golden("chat_message")).encode():
            yield bytes([byte])

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        headers = {"authorization": f"Bearer {api.producer}"}
        assert (await client.post("/api/events", content=chunks(), headers=headers)).status_code == 202


async def test_a_body_that_never_ends_is_given_up(open_api):
    async with open_api(server=Server(request_timeout_s=0.2)) as api, serving(api.app) as (port, _):
        for path, secret in (("/api/push", api.sid), ("/api/events", api.producer)):
            half = request("POST", path, f"Authorization: Bearer {secret}", body=b"{" * 100)[:-50]
            status, head, _ = await exchange(port, half)
            assert status == 408
            assert b"connection: close" in head


async def test_a_client_that_hangs_up_halfway_leaves_nothing_behind(api, port):
    for path, secret in (("/api/push", api.sid), ("/api/events", api.producer)):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST", path, f"Authorization: Bearer {secret}", body=b"{" * 100)[:-50])
        await writer.drain()
        writer.close()
    await asyncio.sleep(0.1)
    assert (await api.store.queue.backlog()).events == 0


async def test_many_producers_at_once_each_get_their_own_answer(api, port, golden):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        headers = {"authorization": f"Bearer {api.producer}"}
        answers = await asyncio.gather(
            *(client.post("/api/events", json=golden("fax_new"), headers=headers) for _ in range(200))
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["events"][0] for answer in answers}) == 200
    assert (await api.store.queue.backlog()).events == 200
