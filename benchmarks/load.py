"""The load generator: prepared bytes over raw sockets, so that it is not what is measured."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle

import httptools
import uvloop

from benchmarks.stage import Stage, fax, owner

_STRIDE = 7919
"""Prime: neighbours in a load are no neighbours in the registry, and every user has a turn."""


class _Client(asyncio.Protocol):
    """One keep-alive connection that sends the next request as soon as the last is answered."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
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
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.answered += 1
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


def ndjson(stage: Stage, users: Sequence[int]) -> bytes:
    """One request with an event for each of these users."""
    return post(stage, b"\n".join([fax(owner(user)) for user in users]) + b"\n", "application/x-ndjson")


def batches(stage: Stage, events: int, users: range, *, size: int = 2000, first: int = 0) -> list[bytes]:
    """NDJSON requests for `events` events in all, spread over `users`; `first` is how many had their turn before."""
    owners = [users[number * _STRIDE % len(users)] for number in range(first, first + events)]
    return [ndjson(stage, owners[start : start + size]) for start in range(0, events, size)]


async def _run(address: tuple[str, int], requests: Iterable[bytes], connections: int, refusals: bool) -> float:
    loop = asyncio.get_running_loop()
    shared = iter(requests)
    futures = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    clients = []
    for future in futures:
        _, client = await loop.create_connection(partial(_Client, shared, future), *address)
        clients.append(client)
    await asyncio.gather(*futures)
    elapsed = time.perf_counter() - started
    wrong = sum(client.wrong for client in clients)
    if wrong and not refusals:
        raise RuntimeError(f"{wrong} requests were refused")
    return elapsed


def send(address: tuple[str, int], requests: Iterable[bytes], connections: int, *, refusals: bool = False) -> float:
    """Send all requests over so many connections; returns the seconds until the last answer.

    A refusal (the backlog is full) is an error unless `refusals`.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(address, requests, connections, refusals))


def deliver(stage: Stage, requests: Sequence[bytes], events: int, devices: int = 1, *, receipts: bool = True) -> float:
    """Hand in, and wait until every device has its push and every receipt is on disk; returns seconds."""
    accepted, settled = stage.accepted(), stage.settled()
    started = time.perf_counter()
    send(stage.address, requests, 4)
    stage.wait_for(stage.accepted, accepted + events * devices)
    if receipts:
        stage.wait_for(stage.settled, settled + events)
    return time.perf_counter() - started


@contextmanager
def watching(stage: Stage) -> Iterator[Callable[[float, float], float]]:
    """Count what the provider takes while the block runs; afterwards the pace between two shares of it, in pushes a
    second, can be asked for."""
    stop = threading.Event()
    counts: list[tuple[float, int]] = []

    def count() -> None:
        while not stop.wait(0.02):
            counts.append((time.perf_counter(), stage.accepted()))

    def rate_between(first: float, last: float) -> float:
        start, end = counts[0][1], counts[-1][1]
        some = [(at, taken) for at, taken in counts if first <= (taken - start) / (end - start) <= last]
        return (some[-1][1] - some[0][1]) / (some[-1][0] - some[0][0])

    watching = threading.Thread(target=count)
    watching.start()
    try:
        yield rate_between
    finally:
        stop.set()
        watching.join()


@contextmanager
def trickle(stage: Stage, requests: Sequence[bytes], every_s: float) -> Iterator[None]:
    """Send one of these requests after the other at this pace, over and over, while the block runs."""
    stop = threading.Event()

    def paced() -> Iterator[bytes]:
        for request in cycle(requests):
            if stop.wait(every_s):
                return
            yield request

    sending = threading.Thread(target=send, args=(stage.address, paced(), 1))
    sending.start()
    try:
        yield
    finally:
        stop.set()
        sending.join()
