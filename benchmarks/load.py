"""The load generator: prepared bytes over raw sockets, so that it takes little of the CPU."""

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

from benchmarks.environment import Environment, fax, owner

_STRIDE = 7919
"""A prime: events that follow each other are for users that are far apart in the registry, and none is left out."""


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


def post(environment: Environment, body: bytes, content_type: str) -> bytes:
    host, port = environment.address
    return (
        f"POST /api/events HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {environment.producer_key}\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


def get_push(environment: Environment) -> bytes:
    host, port = environment.address
    return f"GET /api/push HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {environment.sid}\r\n\r\n".encode()


def ndjson(environment: Environment, users: Sequence[int]) -> bytes:
    """One request with an event for each of these users."""
    return post(environment, b"\n".join([fax(owner(user)) for user in users]) + b"\n", "application/x-ndjson")


def batches(environment: Environment, events: int, users: range, *, size: int = 2000, first: int = 0) -> list[bytes]:
    """NDJSON requests for `events` events in all, spread over `users`; `first` is how many events were made before."""
    owners = [users[number * _STRIDE % len(users)] for number in range(first, first + events)]
    return [ndjson(environment, owners[start : start + size]) for start in range(0, events, size)]


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


def deliver(
    environment: Environment, requests: Sequence[bytes], events: int, devices: int = 1, *, receipts: bool = True
) -> float:
    """Send, and wait until every device has its push and every receipt is on disk; returns seconds."""
    accepted, settled = environment.accepted(), environment.settled()
    started = time.perf_counter()
    send(environment.address, requests, 4)
    environment.wait_for(environment.accepted, accepted + events * devices)
    if receipts:
        environment.wait_for(environment.settled, settled + events)
    return time.perf_counter() - started


@contextmanager
def watching(environment: Environment) -> Iterator[Callable[[float, float], float]]:
    """Count what the provider accepts while the block runs.

    Afterwards the function that it yields returns the rate between two shares of that count, in pushes a second.
    """
    stop = threading.Event()
    counts: list[tuple[float, int]] = []

    def count() -> None:
        while not stop.wait(0.02):
            counts.append((time.perf_counter(), environment.accepted()))

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
def trickle(environment: Environment, requests: Sequence[bytes], every_s: float) -> Iterator[None]:
    """Send these requests one after the other, again and again, one every `every_s`, while the block runs."""
    stop = threading.Event()

    def paced() -> Iterator[bytes]:
        for request in cycle(requests):
            if stop.wait(every_s):
                return
            yield request

    sending = threading.Thread(target=send, args=(environment.address, paced(), 1))
    sending.start()
    try:
        yield
    finally:
        stop.set()
        sending.join()
