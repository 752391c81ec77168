"""The load generator: prepared bytes over raw sockets, so that it is not what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

import httptools

from benchmarks.stage import Stage


class _Client(asyncio.Protocol):
    """One keep-alive connection that sends the next request as soon as the last is answered."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self.wrong = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 300:
            self.wrong += 1
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(f"the server closed a connection: {exc}"))


def post(stage: Stage, body: bytes, content_type: str) -> bytes:
    host, port = stage.address
    return (
        f"POST /api/events HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {stage.producer_key}\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


def get_push(stage: Stage) -> bytes:
    host, port = stage.address
    return f"GET /api/push HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {stage.sid}\r\n\r\n".encode()


def singles(stage: Stage, lines: Sequence[bytes]) -> list[bytes]:
    return [post(stage, line, "application/json") for line in lines]


def batches(stage: Stage, lines: Sequence[bytes], *, size: int = 2000) -> list[bytes]:
    """NDJSON requests of `size` lines."""
    return [
        post(stage, b"\n".join(lines[first : first + size]) + b"\n", "application/x-ndjson")
        for first in range(0, len(lines), size)
    ]


async def _run(address: tuple[str, int], requests: Sequence[bytes], connections: int) -> tuple[float, int]:
    loop = asyncio.get_running_loop()
    shared = iter(requests)
    futures = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    clients = []
    for future in futures:
        _, client = await loop.create_connection(lambda future=future: _Client(shared, future), *address)
        clients.append(client)
    await asyncio.gather(*futures)
    return time.perf_counter() - started, sum(client.wrong for client in clients)


def offer(address: tuple[str, int], requests: Sequence[bytes], connections: int) -> tuple[float, int]:
    """Send all requests over so many connections; returns the seconds until the last answer, and how many refusals."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(address, requests, connections))


def send(stage: Stage, requests: Sequence[bytes], connections: int) -> float:
    """As `offer`, where nothing may be refused."""
    elapsed, wrong = offer(stage.address, requests, connections)
    if wrong:
        raise RuntimeError(f"{wrong} of {len(requests)} requests were refused")
    return elapsed


def deliver(stage: Stage, requests: Sequence[bytes], events: int, *, devices: int = 1, connections: int = 4) -> float:
    """Hand in, and wait until the provider has taken everything and every receipt is on disk; returns seconds."""
    accepted, settled = stage.accepted(), stage.settled()
    started = time.perf_counter()
    send(stage, requests, connections)
    await_count(stage.accepted, accepted + events * devices)
    await_count(stage.settled, settled + events)
    return time.perf_counter() - started


def await_count(count: Callable[[], int], wanted: int, timeout_s: float = 300) -> None:
    """Until `count` has reached `wanted`; asks the less often the longer it will take, not to be a load itself."""
    started, first = time.perf_counter(), count()
    now = first
    while now < wanted:
        elapsed = time.perf_counter() - started
        if elapsed > timeout_s:
            raise RuntimeError(f"only {now - first} of {wanted - first} arrived")
        rate = (now - first) / elapsed if elapsed else 0.0
        time.sleep(min(0.2, max(0.004, (wanted - now) / rate / 3)) if rate else 0.01)
        now = count()
