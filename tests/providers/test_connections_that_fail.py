"""Connections that end before they were of use, fall silent, or take no requests: each is replaced, none in a hurry."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.peer import Peer, gather, listening, request

from tocsin.http2.messages import FailureKind
from tocsin.http2.server import Exchange, Reply
from tocsin.http2.state import State

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("answers_one", [False, True])
async def test_a_peer_that_ends_every_connection_by_goaway_is_not_dialled_in_a_tight_loop(
    tmp_path: Path, answers_one: bool
) -> None:
    peer = Peer()

    def turn_away(exchange: Exchange) -> None:
        if answers_one:
            exchange.reply(Reply(200))
            exchange.connection.flush()
        exchange.connection.goaway(None if answers_one else 0)

    peer.handler = turn_away
    async with listening(tmp_path, peer):
        pool, _ = peer.pool()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 2
        while loop.time() < deadline:
            pool.send([request(pool)])
            await asyncio.sleep(0.01)
        assert 1 <= pool.opened <= (30 if answers_one else 8)
        await pool.close()


async def test_a_connection_that_was_of_use_is_replaced_at_once_after_a_goaway(tmp_path: Path) -> None:
    """The back-off is for connections that were never of use: another one would wait up to half a minute here."""
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        for _ in range(10):
            pool.send([request(pool) for _ in range(20)])
            assert {got.status for got in await gather(answers, 20, timeout_s=5)} == {200}
            peer.connections[-1].goaway()
            peer.connections[-1].flush()
            async with asyncio.timeout(5):
                while pool.connections:
                    await asyncio.sleep(0.005)
        assert (pool.opened, pool._dialler.failures) == (10, 0)
        await pool.close()


async def test_connections_whose_stream_limit_stays_zero_are_replaced(tmp_path: Path) -> None:
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(max_connections=1, request_timeout_s=60)
        pool.send([request(pool)])
        await gather(answers, 1)
        peer.connections[0].set_max_streams(0)
        peer.connections[0].flush()
        await asyncio.sleep(0.2)
        pool.send([request(pool)])
        assert (await gather(answers, 1, timeout_s=30))[0].status == 200
        assert pool.opened == 2
        await pool.close()


async def test_a_pool_that_is_wound_up_while_it_dials_closes_what_it_gets(tmp_path: Path) -> None:
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        pool.send([request(pool)])
        await asyncio.sleep(0)
        pool.wind_up()
        assert not pool.connections, "it is being opened"
        [unsent] = await gather(answers, 1)
        assert unsent.failure is not None
        assert (unsent.failure.kind, unsent.failure.unknown) == (FailureKind.CONNECT, False)
        async with asyncio.timeout(5):
            while not pool.idle:
                await asyncio.sleep(0.05)
        assert pool.opened == 1


async def test_a_connection_that_falls_silent_is_asked_when_a_request_times_out_and_replaced(tmp_path: Path) -> None:
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(request_timeout_s=2, ping_after_s=600, ping_timeout_s=1)
        pool.send([request(pool)])
        assert (await gather(answers, 1))[0].status == 200
        peer.connections[0].pause_reading(600)
        pool.send([request(pool)])
        [late] = await gather(answers, 1)
        assert late.failure is not None
        assert late.failure.kind is FailureKind.TIMEOUT
        # What comes from now on does not go where nothing is answered.
        pool.send([request(pool) for _ in range(20)])
        assert {got.status for got in await gather(answers, 20)} == {200}
        async with asyncio.timeout(10):
            while pool.connections > 1:
                await asyncio.sleep(0.05)
        assert [connection.state for connection in pool._connections] == [State.ACTIVE]
        assert pool.opened == 2
        await pool.close()


async def test_a_provider_that_answers_ping_but_no_request_keeps_its_connection(tmp_path: Path) -> None:
    peer = Peer()
    peer.handler = lambda exchange: None
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(request_timeout_s=1, ping_after_s=600, ping_timeout_s=1)
        for _ in range(3):
            pool.send([request(pool) for _ in range(5)])
            assert {got.failure and got.failure.kind for got in await gather(answers, 5)} == {FailureKind.TIMEOUT}
        peer.handler = lambda exchange: Reply(200)
        pool.send([request(pool)])
        assert (await gather(answers, 1))[0].status == 200
        assert pool.opened == 1
        await pool.close()


async def test_a_request_without_a_stream_gets_a_connection_before_the_next_periodic_check(tmp_path: Path) -> None:
    peer = Peer()
    peer.max_streams = 1
    peer.handler = lambda exchange: None
    async with listening(tmp_path, peer):
        pool, _ = peer.pool(request_timeout_s=60)
        pool.send([request(pool)])
        async with asyncio.timeout(5):
            while not pool.in_flight:
                await asyncio.sleep(0.005)
        loop, checked_at = asyncio.get_running_loop(), pool.next_check_at
        while pool.next_check_at == checked_at:
            await asyncio.sleep(0.005)
        checked_at = pool.next_check_at
        assert checked_at is not None
        pool.send([request(pool)])
        while pool.in_flight < 2 and loop.time() < checked_at:
            await asyncio.sleep(0.005)
        assert (pool.in_flight, pool.next_check_at) == (2, checked_at)
        await pool.close()


async def test_new_connections_that_fail_are_opened_ever_more_slowly_while_an_older_one_works(tmp_path: Path) -> None:
    """As behind a proxy that allows so many tunnels, and no more."""
    peer = Peer()
    peer.max_streams = 1

    def only_the_first(exchange: Exchange) -> None:
        if exchange.connection is peer.connections[0]:
            asyncio.get_running_loop().call_later(0.03, exchange.reply, Reply(200, [], b"ok"))
        else:
            exchange.connection.goaway(0)

    peer.handler = only_the_first
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(max_connections=4)
        async with asyncio.timeout(30):
            while pool._dialler.failures < 3:
                pool.send([request(pool) for _ in range(5)])
                await gather(answers, 5, timeout_s=10)
        await pool.close()


async def test_what_is_asked_for_on_a_connection_that_was_opened_for_it_retires_that_connection(tmp_path: Path) -> None:
    """Apple's `Shutdown`, say, as the answer to a request that had waited for its connection."""
    peer = Peer()
    peer.handler = lambda _: Reply(503, [], b'{"reason":"Shutdown"}')
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        pool.send([request(pool)])
        (answered,) = await gather(answers, 1)
        pool.retire(opened_until=answered.connection_opened, why="Shutdown")
        assert not pool.room, "the next one needs another connection"
        await pool.close()
