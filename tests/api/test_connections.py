"""Connections that do nothing keep nobody out, and no address may have them all."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from structlog.testing import capture_logs
from tests.api.raw_http import Answer, serving

from tocsin.api import connections as policy
from tocsin.api import refusal_log

pytestmark = pytest.mark.slow

LIVE = b"GET /health/live HTTP/1.1\r\nHost: tocsin\r\n\r\n"
WITHIN_S = 10
ELSEWHERE = "127.0.0.2"


class Client:
    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def ask(self, request=LIVE):
        """The answer; None where the server has ended the connection instead."""
        self.writer.write(request)
        try:
            async with asyncio.timeout(WITHIN_S):
                head = await self.reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-len"))
                return Answer(head, await self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def is_ended(self):
        async with asyncio.timeout(WITHIN_S):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read() == b""
            return True


@contextlib.asynccontextmanager
async def clients(port):
    """Makes clients, at one of this machine's addresses."""
    made = []

    async def connect(address="127.0.0.1"):
        made.append(Client(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))))
        return made[-1]

    try:
        yield connect
    finally:
        for client in made:
            client.writer.transport.abort()


async def status(client, request=LIVE):
    answer = await client.ask(request)
    return None if answer is None else answer.status


async def test_forty_idle_connections_keep_nobody_out(api):
    async with serving(api.app, max_connections=40) as (port, _), clients(port) as connect:
        idle = [await connect() for _ in range(40)]
        assert {await status(client) for client in idle} == {200}
        await asyncio.sleep(1.2)
        for _ in range(3):
            assert await status(await connect()) == 200
        # Those gave way that had been idle for longest; the others are still there.
        assert [await client.is_ended() for client in idle[:3]] == [True] * 3
        assert {await status(client) for client in idle[3:]} == {200}


async def test_connections_that_never_sent_anything_keep_nobody_out(api):
    async with serving(api.app, max_connections=4) as (port, _), clients(port) as connect:
        silent = [await connect() for _ in range(4)]
        await asyncio.sleep(1.2)
        assert await status(await connect()) == 200
        assert await silent[0].is_ended()


async def test_a_connection_in_use_never_gives_way(api):
    upload = b"POST /api/events HTTP/1.1\r\nHost: tocsin\r\nAuthorization: Bearer %b\r\nContent-Length: 2\r\n\r\n{"
    async with serving(api.app, max_connections=2) as (port, _), clients(port) as connect:
        used = [await connect() for _ in range(2)]
        for client in used:
            client.writer.write(upload % api.producer.encode())
        await asyncio.sleep(1.2)
        assert await status(await connect()) == 503
        assert [await status(client, b"}") for client in used] == [400, 400]


async def test_one_that_was_just_used_is_not_taken_away(api):
    async with serving(api.app, max_connections=1) as (port, _), clients(port) as connect:
        first = await connect()
        assert await status(first) == 200
        assert await status(await connect()) == 503
        assert await status(first) == 200


async def test_under_pressure_idle_connections_are_kept_only_shortly(api, monkeypatch):
    monkeypatch.setattr(policy, "_KEPT_UNDER_PRESSURE_S", 1.0)
    async with serving(api.app, max_connections=8) as (port, server), clients(port) as connect:
        few = [await connect() for _ in range(6)]
        assert {await status(client) for client in few} == {200}
        await asyncio.sleep(2.5)
        assert {await status(client) for client in few} == {200}
        more = await connect()
        assert await status(more) == 200
        assert [await client.is_ended() for client in [*few, more][:1]] == [True]
        async with asyncio.timeout(WITHIN_S):
            while len(server.shared.connections) > 6:
                await asyncio.sleep(0.05)


async def test_an_address_may_not_have_all_connections(api):
    async with (
        serving(api.app, trusted_proxies=[], max_connections_per_address=3) as (port, _),
        clients(port) as connect,
    ):
        own = [await connect() for _ in range(3)]
        assert {await status(client) for client in own} == {200}
        refused = await (await connect()).ask()
        assert refused.problem()["type"] == "urn:tocsin:problem:throttled"
        assert b"retry-after: 1" in refused.head
        assert await status(await connect(ELSEWHERE)) == 200
        assert {await status(client) for client in own} == {200}


async def test_an_address_with_too_many_gives_up_its_own_idle_ones_first(api):
    async with (
        serving(api.app, trusted_proxies=[], max_connections_per_address=2) as (port, _),
        clients(port) as connect,
    ):
        elsewhere = await connect(ELSEWHERE)
        own = [await connect(), await connect()]
        assert {await status(client) for client in [elsewhere, *own]} == {200}
        await asyncio.sleep(1.2)
        assert await status(await connect()) == 200
        assert await own[0].is_ended()
        assert [await status(client) for client in (elsewhere, own[1])] == [200, 200]


async def test_a_flood_from_one_address_is_dropped_and_takes_no_places_from_others(api):
    async with (
        serving(api.app, trusted_proxies=[], max_connections=200, max_connections_per_address=4) as (port, server),
        clients(port) as connect,
    ):
        for _ in range(150):
            await connect()
        await asyncio.sleep(0.2)
        assert len(server.shared.connections) <= 4 + 16
        assert await status(await connect(ELSEWHERE)) == 200


@pytest.mark.parametrize("trusted", [None, ["127.0.0.0/8"]])
async def test_a_proxy_is_not_limited_as_an_address_nor_is_whoever_may_be_one(api, trusted):
    async with (
        serving(api.app, trusted_proxies=trusted, max_connections_per_address=2) as (port, _),
        clients(port) as connect,
    ):
        many = [await connect() for _ in range(6)]
        assert {await status(client) for client in many} == {200}


async def test_connections_are_forgotten_when_they_end(api):
    async with serving(api.app, trusted_proxies=[]) as (port, server):
        async with clients(port) as connect:
            for address in ("127.0.0.1", ELSEWHERE, ELSEWHERE):
                await status(await connect(address))
            assert len(server.shared.connections) == 3
        async with asyncio.timeout(WITHIN_S):
            while len(server.shared.connections) or server.shared.connections._by_address:
                await asyncio.sleep(0.02)
        assert not server.shared.connections._idle


async def test_a_thousand_bad_requests_are_one_line_of_the_log_with_a_count(api):
    with capture_logs() as lines:
        async with serving(api.app) as (port, _), clients(port) as connect:
            began = time.monotonic()
            for _ in range(1000):
                client = await connect()
                assert await status(client, b"nonsense\r\n\r\n") == 400
                client.writer.transport.abort()
            took_s = time.monotonic() - began
            await asyncio.sleep(1.5)
        told = [line for line in lines if "refused" in line["event"]]
        # One when it begins, one a minute, and one at the end.
        assert 1 <= len(told) == len(lines) <= 2 + took_s / refusal_log._EVERY_S
        assert sum(line["count"] for line in told) == 1000
        assert {reason for line in told for reason in line["reasons"]} == {"malformed"}


async def test_every_kind_of_refusal_is_counted(api):
    with capture_logs() as lines:
        async with (
            serving(api.app, request_timeout_s=1, max_connections=2) as (port, _),
            clients(port) as connect,
        ):
            (await connect()).writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000)
            slow = [await connect(), await connect()]
            for client in slow:
                client.writer.write(b"GET")
            assert await status(await connect()) == 503
            assert await slow[0].is_ended()
    counted = {reason for line in lines for reason in line.get("reasons", ())}
    assert counted == {"head too long", "too slow", "too many connections"}
