"""A connection that cannot be opened says why."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tocsin.http2.dial import DialError, _connected, client_tls, dial
from tocsin.http2.dialler import Dialler

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def _end_after_the_whole_greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(64 * 1024)
    writer.close()


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("peer", [_end, _end_after_the_whole_greeting, _reset, _speak_http])
async def test_a_handshake_that_is_cut_names_its_cause(peer: Peer) -> None:
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(DialError) as raised:
            await dial("127.0.0.1", port, client_tls(), asyncio.Protocol, timeout_s=10)
    finally:
        server.close()
    cause = str(raised.value).removeprefix(f"127.0.0.1:{port}:")
    assert cause.strip(), "the message ends where the cause should stand"


async def test_an_address_that_does_not_answer_keeps_nobody_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a host has an IPv6 address, and packets to it are dropped on the way."""
    with socket.socket() as full, socket.socket() as well, socket.socket() as first, socket.socket() as second:
        for listening in (full, well):
            listening.bind(("127.0.0.1", 0))
        well.listen()
        full.listen(0)
        for filling in (first, second):  # its queue, so that what comes next is not answered
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one.getsockname()) for one in (full, well)]

        async def addresses(*_: Any, **__: Any) -> Any:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
        with await asyncio.wait_for(_connected("push.example", 443), timeout=5) as connected:
            assert connected.getpeername() == well.getsockname()
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_of_all_addresses_that_refuse_the_reason_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(DialError, match=f"localhost:{port}: .*[Cc]onnect"):
            await dial("localhost", port, client_tls(), asyncio.Protocol, timeout_s=10)


async def test_the_wait_before_the_next_dial_is_bounded_after_any_number_of_failures() -> None:
    dialler: Dialler[None] = Dialler("https://x", asyncio.Event().wait, print, print, random=lambda: 1.0)  # type: ignore[arg-type]
    for _ in range(2000):
        dialler.back_off("no route to host")
    assert dialler._not_before - asyncio.get_running_loop().time() == pytest.approx(60.0, abs=1)
