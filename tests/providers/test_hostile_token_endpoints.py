"""Whoever answers for access tokens, keys and sessions is bounded in bytes and time, and the event loop goes on."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.evil_server import Attack, EvilConnection, evil_server

from tocsin.emulator.credentials import Files, write_credentials, write_service_account
from tocsin.providers.fcm import oauth
from tocsin.providers.fcm.credentials import read_service_account
from tocsin.providers.fcm.oauth import HttpOAuthClient, TokenRefused, TokenUnavailable
from tocsin.sign_in.exchange import Exchange, ExchangeFailed

pytestmark = pytest.mark.slow

TIMEOUT_S = 2.0
WITHIN_S = 10.0
MOST_BYTES = 24 * 1024 * 1024
MOST_MEMORY_BYTES = 100 * 1024 * 1024
LOOP_STOPPED_S = 1.5

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def answering(*pieces: bytes) -> Attack:
    def attack(connection: EvilConnection) -> None:
        connection.read_head()
        for piece in pieces:
            connection.send(piece)
        connection.wait_for_end()

    return attack


def flooding(first: bytes, *pieces: bytes, pause_s: float = 0.0) -> Attack:
    def attack(connection: EvilConnection) -> None:
        connection.read_head()
        connection.send(first)
        connection.flood(*pieces, pause_s=pause_s)

    return attack


ATTACKS: dict[str, Attack] = {
    "a body without end": flooding(OK + b"\r\n", b" " * 16_384),
    "chunks without end": flooding(CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n"),
    "chunks of one byte": flooding(CHUNKED, b"1\r\n \r\n"),
    "the extension of a chunk without end": flooding(CHUNKED + b"1;", b"x" * 4096),
    "trailers without end": flooding(CHUNKED + b"2\r\n{}\r\n0\r\n", b"x: y\r\n"),
    "header fields without end": flooding(OK, b"x: y\r\n"),
    "a header field without end": flooding(OK + b"x: ", b"y" * 4096),
    "a status line without end": flooding(b"HTTP/1.1 200 ", b"y" * 4096),
    "1xx without end": flooding(b"", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
    "a body of one byte at a time": flooding(OK + b"\r\n", b" ", pause_s=0.2),
    "a head of one byte at a time": flooding(b"H", b"T", pause_s=0.2),
    "1xx one after the other": flooding(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.2),
    "silence": answering(b""),
    "silence after the handshake": lambda connection: connection.wait_for_end(),
    "a length of more than there is": answering(OK + b"content-length: 999999999999\r\n\r\n{}"),
    "a length that is none": answering(OK + b"content-length: -1\r\n\r\n{}"),
    "two lengths": answering(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}"),
    "a compressed bomb": answering(
        OK
        + b"content-encoding: gzip\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (len(bomb := gzip.compress(bytes(50_000_000))), bomb)
    ),
    "a redirect": answering(b"HTTP/1.1 307 X\r\nlocation: https://localhost:1/\r\ncontent-length: 0\r\n\r\n"),
    "another protocol": answering(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"),
    "HTTP/2": answering(bytes(9)),
    "nonsense": flooding(b"", b"\xff" * 4096),
    "no answer": lambda connection: None,
    "JSON of another form": answering(OK + b"content-length: 2\r\n\r\n[]"),
    "JSON nested deeply": answering(OK + b"content-length: 60000\r\n\r\n" + b"[" * 60_000),
    "no UTF-8": answering(OK + b"content-length: 2\r\n\r\n\xff\xfe"),
    "a token with a line break": answering(OK + b'content-length: 25\r\n\r\n{"access_token":"a\\r\\nb:c"}'),
    "a token that has expired": answering(OK + b'content-length: 35\r\n\r\n{"access_token":"a","expires_in": 0}'),
}
NOT_TRANSPORT = {"a compressed bomb", "JSON of another form", "JSON nested deeply", "no UTF-8"}
"""What whoever decodes it refuses; the exchange itself gives it back as it came."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_credentials(tmp_path_factory.mktemp("credentials"))


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def bounded(files: Files, attack: Attack, ask: Callable[[str], Awaitable[object]]) -> object:
    """Ask the evil server: what comes of it, once it is known that it was bounded."""
    longest, before = 0.0, memory_bytes()

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - began)

    with evil_server(files, attack, "http/1.1") as server:
        watching = asyncio.create_task(watch())
        try:
            async with asyncio.timeout(WITHIN_S):
                return await ask(server.url)
        finally:
            watching.cancel()
            assert server.connections == 1
            assert server.sent_bytes < MOST_BYTES
            assert memory_bytes() - before < MOST_MEMORY_BYTES
            assert longest < LOOP_STOPPED_S


@pytest.mark.parametrize("what", ATTACKS)
async def test_a_token_endpoint_that_means_harm_gives_no_token_and_holds_nobody_up(
    files: Files, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(oauth, "_TIMEOUT_S", TIMEOUT_S)
    client = HttpOAuthClient(["localhost"], files.ca)

    async def ask(url: str) -> object:
        account = read_service_account(account_file(files, f"{url}/token"), ["localhost"])
        return await client.token(account, time.time())

    with pytest.raises((TokenUnavailable, TokenRefused)) as refused:
        await bounded(files, ATTACKS[what], ask)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("method", ["keys", "introspection"])
@pytest.mark.parametrize("what", [what for what in ATTACKS if not what.startswith("a token")])
async def test_a_sign_in_service_that_means_harm_holds_nobody_up(files: Files, what: str, method: str) -> None:
    exchange = Exchange(files.ca, TIMEOUT_S)

    async def ask(url: str) -> object:
        return await (exchange.get(url) if method == "keys" else exchange.post(url, {"token": "secret-sid"}, {}))

    try:
        if what in NOT_TRANSPORT:
            assert await bounded(files, ATTACKS[what], ask)
            return
        with pytest.raises(ExchangeFailed) as refused:
            await bounded(files, ATTACKS[what], ask)
        assert "secret-sid" not in str(refused.value)
        assert len(str(refused.value)) < 300
    finally:
        await exchange.close()


def account_file(files: Files, token_uri: str) -> bytes:
    write_service_account(files, token_uri)
    return files.service_account.read_bytes()
