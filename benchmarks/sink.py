"""Answers every HTTP request at once and does nothing else: shows what the load generator reaches alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ANSWER = b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_LENGTH = b"content-length: "


class _Sink(asyncio.Protocol):
    def __init__(self) -> None:
        self._left = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """One request at a time on each connection, as the generator sends them."""
        if not self._left:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self._head.find(_LENGTH, 0, end)
            length = int(self._head[at + len(_LENGTH) : end].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._left = length - (len(self._head) - end - 4)
            self._head = b""
        else:
            self._left -= len(data)
        if not self._left:
            self._transport.write(_ANSWER)  # type: ignore[attr-defined]


@contextmanager
def sink() -> Iterator[tuple[str, int]]:
    """A sink in a process of its own; yields its address."""
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.sink"], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield "127.0.0.1", int(child.stdout.readline())
    finally:
        child.terminate()
        child.wait()


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
