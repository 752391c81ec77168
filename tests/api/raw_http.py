"""The API behind its own server, on a socket: for requests that no client library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

from tocsin.api.server import ApiServer
from tocsin.api.tls import ServerTls
from tocsin.settings import Server


@contextlib.asynccontextmanager
async def serving(app: Any, tls: ServerTls | None = None, **settings: Any) -> AsyncIterator[tuple[int, ApiServer]]:
    """The port of a running server, and the server."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        server = ApiServer(app, Server(**settings), tls)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        await server.listening.wait()
        try:
            yield sock.getsockname()[1], server
        finally:
            server.should_exit = server.force_exit = True
            await task


class Answer:
    """One HTTP/1.1 response."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.status = int(head[9:12])
        self.head = head.lower()
        self.body = body

    def problem(self) -> dict[str, Any]:
        """The problem in the body."""
        assert b"content-type: application/problem+json" in self.head
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        return problem


async def exchange(port: int, *pieces: bytes, idle_s: float = 0.3) -> tuple[list[Answer], bool]:
    """Send `pieces`, a moment apart; all that is answered until the server ends the connection or is silent for
    `idle_s`, and whether it has ended the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, ended = b"", False
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)
        while not ended:
            # The first answer may take long on a busy machine; silence after it need not.
            data = await asyncio.wait_for(reader.read(65536), idle_s if received else 5)
            received, ended = received + data, not data
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return list(_answers(received)), ended


def _answers(received: bytes) -> Any:
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        yield Answer(head, rest[:length])
        received = rest[length:]
