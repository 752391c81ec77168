"""The connection layer, over TLS: what Apple and Google do to connections, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from tests.support.peer import Asked, Peer, gather, listening, request
from tests.support.relay import copy

from tocsin.emulator.credentials import write_credentials
from tocsin.http2.messages import FailureKind
from tocsin.http2.pool import Pool
from tocsin.http2.server import Exchange, Reply
from tocsin.http2.state import State

pytestmark = pytest.mark.slow


async def test_the_stream_limit_is_followed_as_it_changes(tmp_path: Path) -> None:
    """1 until the first success, 50 later, 1 again after a rejection: never one stream more than allowed."""
    peer = Peer()
    peer.max_streams = 1
    waiting: list[Exchange] = []
    most = 0

    def hold(exchange: Exchange) -> None:
        nonlocal most
        waiting.append(exchange)
        most = max(most, len(waiting))

    peer.handler = hold
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(max_connections=1)
        pool.send([request(pool) for _ in range(200)])
        answered = 0
        limits = {5: 50, 150: 1}
        allowed = 1
        while answered < 200:
            await asyncio.sleep(0.005)
            assert len(waiting) <= allowed
            if not waiting:
                continue
            batch, waiting[:] = list(waiting), []
            for exchange in batch:
                exchange.reply(Reply(200))
            answered += len(batch)
            for at, limit in list(limits.items()):
                if answered >= at:
                    del limits[at]
                    # What is sent before the new limit arrives may still follow the old one.
                    allowed = max(allowed, limit)
                    peer.connections[0].set_max_streams(limit)
                    await asyncio.sleep(0.05)
        assert most == 50
        assert all(answer.status == 200 for answer in await gather(answers, 200))
        assert pool.opened == 1
        await pool.close()


async def test_a_graceful_goaway_moves_on_to_a_new_connection_and_loses_nothing(tmp_path: Path) -> None:
    peer = Peer()
    seen: Counter[str] = Counter()

    def answer(exchange: Exchange) -> Reply:
        seen[dict(exchange.headers)[b":path"].decode()] += 1
        if sum(seen.values()) == 30:
            exchange.connection.goaway()
        return Reply(200)

    peer.handler = answer
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(max_connections=2)
        pool.send([request(pool, f"/{number}") for number in range(100)])
        assert all(got.status == 200 for got in await gather(answers, 100))
        pool.send([request(pool, f"/again/{number}") for number in range(100)])
        assert all(got.status == 200 for got in await gather(answers, 100))
        assert pool.opened == 2
        assert max(seen.values()) == 1
        await pool.close()


async def test_streams_above_the_last_stream_id_are_sent_again_and_those_below_finish(tmp_path: Path) -> None:
    peer = Peer()
    processed: Counter[str] = Counter()
    went_away = False

    def answer(exchange: Exchange) -> Reply | None:
        nonlocal went_away
        path = dict(exchange.headers)[b":path"].decode()
        if not went_away and exchange.stream_id >= 41:
            went_away = True
            exchange.connection.goaway(last_stream_id=39)
        if went_away and exchange.connection is peer.connections[0]:
            return None
        processed[path] += 1
        return Reply(200)

    peer.handler = answer
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        pool.send([request(pool, f"/{number}") for number in range(100)])
        assert all(got.status == 200 for got in await gather(answers, 100))
        assert sorted(processed.values()) == [1] * 100
        await pool.close()


async def test_requests_that_a_goaway_overtook_before_they_were_written_are_sent_again(tmp_path: Path) -> None:
    """Handed over in the same turn of the loop in which the GOAWAY is read, and written in the next one."""
    peer = Peer()
    loop = asyncio.get_running_loop()
    pool: Pool[Asked]
    answered = 0

    def answer(exchange: Exchange) -> Reply:
        nonlocal answered
        answered += 1
        if answered == 10:
            exchange.reply(Reply(200))
            exchange.connection.goaway()
            exchange.connection.flush()
            loop.call_soon(pool.send, [request(pool) for _ in range(50)])
        return Reply(200)

    peer.handler = answer
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        pool.send([request(pool) for _ in range(10)])
        got = await gather(answers, 60)
        assert {answer.status for answer in got} == {200}, next(answer.failure for answer in got if answer.failure)
        assert answered == 60
        await pool.close()


async def test_a_refused_stream_is_sent_again(tmp_path: Path) -> None:
    peer = Peer()
    refused: set[str] = set()

    def answer(exchange: Exchange) -> Reply | None:
        path = dict(exchange.headers)[b":path"].decode()
        if path not in refused:
            refused.add(path)
            exchange.connection.reset(exchange, 7)
            return None
        return Reply(200)

    peer.handler = answer
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        pool.send([request(pool, f"/{number}") for number in range(20)])
        assert all(got.status == 200 for got in await gather(answers, 20))
        await pool.close()


async def test_a_stream_that_is_always_refused_fails_in_the_end_and_is_known_not_to_have_arrived(
    tmp_path: Path,
) -> None:
    peer = Peer()

    def refuse(exchange: Exchange) -> None:
        exchange.connection.reset(exchange, 7)

    peer.handler = refuse
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        pool.send([request(pool)])
        [got] = await gather(answers, 1)
        assert got.failure is not None
        assert (got.failure.kind, got.failure.unknown) == (FailureKind.RESET, False)
        await pool.close()


async def test_a_request_without_an_answer_ends_at_its_deadline_and_the_connection_lives_on(tmp_path: Path) -> None:
    peer = Peer()
    peer.handler = lambda exchange: None if dict(exchange.headers)[b":path"] == b"/never" else Reply(200)
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(request_timeout_s=0.5)
        pool.send([request(pool, "/never"), request(pool, "/at-once")])
        first, second = await gather(answers, 2)
        assert (first.path, first.status) == ("/at-once", 200)
        assert second.failure is not None
        assert (second.failure.kind, second.failure.unknown) == (FailureKind.TIMEOUT, True)
        pool.send([request(pool, "/again")])
        assert (await gather(answers, 1))[0].status == 200
        assert pool.opened == 1
        await pool.close()


async def test_a_silent_peer_is_asked_by_ping_and_dropped_when_it_does_not_answer(tmp_path: Path) -> None:
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(ping_after_s=0.2, ping_timeout_s=0.5)
        pool.send([request(pool)])
        await gather(answers, 1)
        await asyncio.sleep(2.5)
        assert pool.connections == 1, "a peer that answers PING stays"
        peer.connections[0].pause_reading(60)
        async with asyncio.timeout(5):
            while pool.connections:
                await asyncio.sleep(0.05)
        await pool.close()


async def test_a_lost_connection_fails_its_requests_as_unknown(tmp_path: Path) -> None:
    peer = Peer()

    def abort(exchange: Exchange) -> None:
        exchange.connection.abort()

    peer.handler = abort
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        pool.send([request(pool)])
        [got] = await gather(answers, 1)
        assert got.failure is not None
        assert (got.failure.kind, got.failure.unknown) == (FailureKind.LOST, True)
        await pool.close()


async def test_reconnecting_backs_off_and_never_spins(tmp_path: Path) -> None:
    attempts = 0

    class Slammed(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal attempts
            attempts += 1
            transport.close()

    server = await asyncio.get_running_loop().create_server(Slammed, "127.0.0.1", 0)
    peer = Peer()
    peer.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    peer.ca = write_credentials(tmp_path / "peer").ca
    pool, answers = peer.pool()
    deadline = asyncio.get_running_loop().time() + 2
    while asyncio.get_running_loop().time() < deadline:
        pool.send([request(pool)])
        await asyncio.sleep(0.01)
    assert 1 <= attempts <= 8
    failures = [answers.get_nowait() for _ in range(answers.qsize())]
    assert failures
    assert all(got.failure and got.failure.kind is FailureKind.CONNECT and not got.failure.unknown for got in failures)
    await pool.close()
    server.close()


async def test_a_certificate_of_an_unknown_authority_is_never_accepted(tmp_path: Path) -> None:
    peer = Peer()
    async with listening(tmp_path, peer):
        peer.ca = write_credentials(tmp_path / "another").ca
        pool, answers = peer.pool()
        pool.send([request(pool)])
        [got] = await gather(answers, 1)
        assert got.failure is not None
        assert "certificate" in got.failure.detail.lower()
        await pool.close()


async def test_more_connections_are_opened_when_the_streams_of_one_are_used_up_but_only_up_to_the_bound(
    tmp_path: Path,
) -> None:
    peer = Peer()
    peer.max_streams = 10
    held: list[Exchange] = []
    peer.handler = held.append  # type: ignore[assignment]
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(max_connections=3, request_timeout_s=60)
        pool.send([request(pool) for _ in range(100)])
        async with asyncio.timeout(10):
            while len(held) < 30:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.5)
        assert (pool.connections, len(held)) == (3, 30)
        while answers.qsize() < 100:
            for exchange in held:
                exchange.reply(Reply(200))
            held.clear()
            await asyncio.sleep(0.01)
        await pool.close()


@pytest.mark.parametrize("credentials", [None, "user:se%20cret"])
async def test_a_connect_proxy_is_used_with_its_credentials(tmp_path: Path, credentials: str | None) -> None:
    heads: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        host, port = heads[-1].split(b" ")[1].decode().split(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for pair in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(copy(*pair))
            tasks.add(task)

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(proxy=f"http://{credentials + '@' if credentials else ''}{address}")
        pool.send([request(pool) for _ in range(5)])
        assert all(got.status == 200 for got in await gather(answers, 5))
        assert heads[0].startswith(b"CONNECT localhost:")
        expected = b"Proxy-Authorization: Basic " + base64.b64encode(b"user:se cret")
        assert (expected in heads[0]) == (credentials is not None)
        await pool.close()
    for task in tasks:
        task.cancel()
    server.close()


async def test_a_proxy_that_refuses_is_named_in_the_failure(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(proxy=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        pool.send([request(pool)])
        [got] = await gather(answers, 1)
        assert got.failure is not None
        assert "407" in got.failure.detail
        await pool.close()
    server.close()


async def test_requests_wait_while_sending_is_not_allowed_and_go_at_once_after_resume(tmp_path: Path) -> None:
    peer = Peer()
    allowed = True
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(may_send=lambda: allowed)
        pool.send([request(pool)])
        await gather(answers, 1)
        allowed = False
        pool.send([request(pool) for _ in range(50)])
        await asyncio.sleep(1.5)
        assert (peer.connections[0].requests, answers.qsize()) == (1, 0)
        allowed = True
        pool.resume()
        assert all(got.status == 200 for got in await gather(answers, 50, timeout_s=0.5))
        assert pool.opened == 1, "that they wait for permission is no reason for more connections"
        await pool.close()


async def test_requests_go_within_a_second_after_sending_is_allowed_again_without_resume(tmp_path: Path) -> None:
    peer = Peer()
    allowed = False
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(may_send=lambda: allowed)
        pool.send([request(pool) for _ in range(50)])
        await asyncio.sleep(0.2)
        assert pool.opened == 0
        allowed = True
        assert all(got.status == 200 for got in await gather(answers, 50, timeout_s=2))
        await pool.close()


async def test_requests_that_wait_for_permission_end_at_their_deadline(tmp_path: Path) -> None:
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(may_send=lambda: False, request_timeout_s=0.5)
        pool.send([request(pool)])
        [got] = await gather(answers, 1)
        assert got.failure is not None
        assert (got.failure.kind, got.failure.unknown) == (FailureKind.TIMEOUT, False)
        await pool.close()


async def test_requests_given_to_a_connection_and_not_yet_written_wait_for_permission_too(tmp_path: Path) -> None:
    peer = Peer()
    allowed = True
    async with listening(tmp_path, peer):
        pool, answers = peer.pool(may_send=lambda: allowed)
        pool.send([request(pool)])
        await gather(answers, 1)
        pool.send([request(pool) for _ in range(50)])
        allowed = False
        assert pool.in_flight == 50
        await asyncio.sleep(1.5)
        assert (peer.connections[0].requests, answers.qsize()) == (1, 0)
        allowed = True
        pool.resume()
        assert all(got.status == 200 for got in await gather(answers, 50, timeout_s=0.3))
        await pool.close()


async def test_an_idle_pool_has_no_timer(tmp_path: Path) -> None:
    peer = Peer()
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        assert pool.next_check_at is None
        sent_at = asyncio.get_running_loop().time()
        pool.send([request(pool)])
        assert pool.next_check_at is not None
        assert pool.next_check_at == pytest.approx(sent_at + 1, abs=0.1)
        await gather(answers, 1)
        await asyncio.sleep(1.2)
        assert pool.next_check_at is not None, "an open connection is checked"
        peer.connections[0].goaway()
        async with asyncio.timeout(3):
            while pool.next_check_at is not None:
                await asyncio.sleep(0.05)
        assert pool.idle
        pool.send([request(pool)])
        assert (await gather(answers, 1))[0].status == 200
        assert pool.next_check_at is not None
        await pool.close()
        assert pool.next_check_at is None


async def test_a_pool_that_is_wound_up_finishes_and_takes_no_more(tmp_path: Path) -> None:
    peer = Peer()
    held: list[Exchange] = []
    peer.handler = held.append  # type: ignore[assignment]
    async with listening(tmp_path, peer):
        pool, answers = peer.pool()
        pool.send([request(pool)])
        while not held:
            await asyncio.sleep(0.01)
        pool.wind_up()
        assert [connection.state for connection in pool._connections] == [State.DRAINING]
        held[0].reply(Reply(200))
        assert (await gather(answers, 1))[0].status == 200
        async with asyncio.timeout(3):
            while pool.next_check_at is not None:
                await asyncio.sleep(0.05)
        assert pool.idle
        pool.send([request(pool)])
        [got] = await gather(answers, 1)
        assert got.failure is not None
        assert got.failure.kind is FailureKind.CONNECT


async def test_a_pool_that_is_wound_up_gives_back_what_is_not_on_the_wire_or_was_refused(tmp_path: Path) -> None:
    peer = Peer()
    peer.max_streams = 2
    held: list[Exchange] = []
    peer.handler = held.append  # type: ignore[assignment]
    async with listening(tmp_path, peer):
        unsent: list[Asked] = []
        pool, answers = peer.pool(unsent=unsent.extend, max_connections=1)
        pool.send([request(pool)])
        while not held:
            await asyncio.sleep(0.01)
        held.pop().reply(Reply(200))
        await gather(answers, 1)
        pool.send([request(pool) for _ in range(10)])
        while len(held) < 2:
            await asyncio.sleep(0.01)
        pool.wind_up()
        assert len(unsent) == 8
        held[0].connection.reset(held[0], 7)  # REFUSED_STREAM
        held[1].reply(Reply(200))
        assert [got.status for got in await gather(answers, 1)] == [200]
        assert [(got.status, got.failure) for got in unsent] == [(0, None)] * 9
        async with asyncio.timeout(3):
            while pool.next_check_at is not None:
                await asyncio.sleep(0.05)


def _tls_files(tmp_path: Path) -> tuple[Path, Path]:
    """Certificate and key in files of their own, as nghttpd and nginx want them."""
    files = write_credentials(tmp_path / "peer")
    pem = files.server.read_text()
    key_at = pem.index("-----BEGIN PRIVATE KEY")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_text(pem[key_at:])
    certificate.write_text(pem[:key_at])
    return key, certificate


async def _talk_to(port: int, tmp_path: Path, status: int) -> None:
    peer = Peer()
    peer.url, peer.ca = f"https://localhost:{port}", tmp_path / "peer" / "ca.pem"
    pool, answers = peer.pool(max_connections=2)
    for _ in range(3):
        pool.send([request(pool, "/index.html") for _ in range(1000)])
        got = await gather(answers, 1000, timeout_s=20)
        assert {answer.status for answer in got} == {status}, next(a.failure for a in got if a.failure)
    await pool.close()


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise AssertionError(f"nothing listens on {port}")


@pytest.mark.skipif(
    shutil.which("nghttpd") is None, reason="nghttpd is absent (Debian: apt-get install nghttp2-server)"
)
async def test_nghttpd_understands_us(tmp_path: Path) -> None:
    key, certificate = _tls_files(tmp_path)
    (tmp_path / "index.html").write_text("hello")
    port = _free_port()
    peer = subprocess.Popen(
        ["nghttpd", "-a", "127.0.0.1", "-d", str(tmp_path), "-m", "100", str(port), str(key), str(certificate)]
    )
    try:
        await _wait_for(port)
        await _talk_to(port, tmp_path, 200)
    finally:
        peer.terminate()
        peer.wait()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is absent (Debian: apt-get install nginx-light)")
async def test_nginx_understands_us(tmp_path: Path) -> None:
    """nginx closes a connection after `keepalive_requests`, with a GOAWAY: here after every 700."""
    key, certificate = _tls_files(tmp_path)
    port = _free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"""daemon off; pid {tmp_path}/nginx.pid; error_log stderr; worker_processes 1;
        events {{ worker_connections 64; }}
        http {{ access_log off; keepalive_requests 700; client_body_temp_path {tmp_path}/body;
        proxy_temp_path {tmp_path}/p; fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u;
        scgi_temp_path {tmp_path}/s;
        server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key};
        location / {{ return 204; }} }} }}"""
    )
    peer = subprocess.Popen(["nginx", "-c", str(config), "-p", str(tmp_path)])
    try:
        await _wait_for(port)
        await _talk_to(port, tmp_path, 204)
    finally:
        peer.terminate()
        peer.wait()
