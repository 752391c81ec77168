"""The load generator: prepared bytes over raw sockets, so that it is not what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import httptools

from benchmarks.stage import Stage, fax, owner


class _Client(asyncio.Protocol):
    """One keep-alive connection that sends the next request as soon as the last is answered."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None], latencies: list[float] | None) -> None:
        self._requests = requests
        self._done = done
        self._latencies = latencies
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self.answered = 0
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
        self._sent = time.perf_counter()
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.answered += 1
        if self._parser.get_status_code() >= 300:
            self.wrong += 1
        if self._latencies is not None:
            self._latencies.append(time.perf_counter() - self._sent)
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


def batches(stage: Stage, events: int, users: int, *, size: int = 2000) -> list[bytes]:
    """NDJSON requests for `events` events, spread over `users`."""
    lines = [fax(owner(number % users)) for number in range(events)]
    return [
        post(stage, b"\n".join(lines[first : first + size]) + b"\n", "application/x-ndjson")
        for first in range(0, events, size)
    ]


async def _run(stage: Stage, requests: Sequence[bytes], connections: int, latencies: list[float] | None) -> float:
    loop = asyncio.get_running_loop()
    shared = iter(requests)
    futures = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    clients = []
    for future in futures:
        _, client = await loop.create_connection(
            lambda future=future: _Client(shared, future, latencies), *stage.address
        )
        clients.append(client)
    await asyncio.gather(*futures)
    elapsed = time.perf_counter() - started
    if wrong := sum(client.wrong for client in clients):
        raise RuntimeError(f"{wrong} requests were refused")
    return elapsed


def send(stage: Stage, requests: Sequence[bytes], connections: int, latencies: list[float] | None = None) -> float:
    """Send all requests over so many connections; returns the seconds until the last answer."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(stage, requests, connections, latencies))


def deliver(stage: Stage, requests: Sequence[bytes], deliveries: int, connections: int = 4) -> float:
    """Hand in, and wait until the emulator has taken everything; returns seconds."""
    before = stage.accepted()
    started = time.perf_counter()
    send(stage, requests, connections)
    while stage.accepted() - before < deliveries:
        if time.perf_counter() - started > 300:
            raise RuntimeError(f"only {stage.accepted() - before} of {deliveries} arrived")
        time.sleep(0.005)
    return time.perf_counter() - started
