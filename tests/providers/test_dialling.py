"""A connection that cannot be opened says why."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from tocsin.http2.dial import DialError, client_tls, dial

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
