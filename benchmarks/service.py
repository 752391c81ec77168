"""What producers and apps see: single events, latency, and the effect of a large backlog."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from uuid import uuid4

import msgspec

from benchmarks import load
from benchmarks.environment import Environment, Group, fax, owner, prepared, token
from benchmarks.report import Figures
from benchmarks.sizes import Sizes
from benchmarks.throughput import warm_up
from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.opening import open_store


def single_posts(sizes: Sizes) -> Figures:
    """One event a POST, 64 keep-alive connections, durable before the 202; then `GET /api/push` likewise."""
    with prepared([Group(sizes.users)]) as environment:
        environment.start_server()
        events = posts(environment, sizes.posts)
        gets = [load.get_push(environment)] * sizes.posts
        figures = Figures()
        load.deliver(environment, events[:2000], 2000)
        for _ in range(sizes.rounds):
            settled = environment.settled()
            figures.add("single_post_per_s", sizes.posts / load.send(environment.address, events, 64))
            environment.wait_for(environment.settled, settled + sizes.posts)
            figures.add("get_push_per_s", sizes.posts / load.send(environment.address, gets, 64))
        return figures


def posts(environment: Environment, count: int) -> list[bytes]:
    """So many requests with an event each."""
    users = environment.groups[0]
    return [load.post(environment, fax(owner(users[n % len(users)])), "application/json") for n in range(count)]


def latency(sizes: Sizes) -> Figures:
    """From the start of the POST to the provider's acceptance, at 2,000 events a second."""
    figures = Figures()
    with followed(sizes) as one:
        for _ in range(sizes.rounds if sizes.memory_s else 1):
            add_waits(figures, "latency", one.waits_ms(sizes.latency_s))
    return figures


def add_waits(figures: Figures, name: str, waits_ms: list[float]) -> None:
    """The median and the 99th percentile of a round's waits, in ascending order, and the waits for a picture."""
    figures.samples.setdefault(f"{name}_ms", []).extend(waits_ms)
    figures.add(f"{name}_ms_p50", waits_ms[len(waits_ms) // 2])
    figures.add(f"{name}_ms_p99", waits_ms[int(len(waits_ms) * 0.99)])


class Followed:
    """A server, and an emulator that notes when each push arrives."""

    def __init__(self, environment: Environment, journal: Path) -> None:
        self._environment = environment
        self._journal = journal

    def waits_ms(self, for_s: float, per_s: int = 2000) -> list[float]:
        """How long each event of a round took, in ascending order."""
        environment, (users,) = self._environment, self._environment.groups
        seen = len(self._noted())
        count = int(per_s * for_s)
        settled = environment.settled()
        sent = asyncio.run(_paced(environment, users, count, per_s))
        environment.wait_for(environment.settled, settled + count)
        time.sleep(0.5)
        arrived: dict[str, list[float]] = {}
        for line in self._noted()[seen:]:
            entry = msgspec.json.decode(line)
            arrived.setdefault(entry["token"], []).append(entry["t"])
        return sorted(
            (end - start) * 1000
            for user, times in sent.items()
            for start, end in zip(times, sorted(arrived[token(user)]), strict=True)
        )

    def _noted(self) -> list[str]:
        return self._journal.read_text().splitlines() if self._journal.exists() else []


@contextmanager
def followed(sizes: Sizes, store_url: str = "") -> Iterator[Followed]:
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "journal"
        with prepared([Group(sizes.users)], "--journal", str(journal), store_url=store_url) as environment:
            environment.start_server()
            warm_up(environment, environment.groups[0])
            time.sleep(0.5)  # the journal is on disk within 0.1 s
            yield Followed(environment, journal)


async def _paced(environment: Environment, users: range, count: int, per_s: int) -> dict[int, list[float]]:
    """`count` single POSTs at an even pace over 32 connections; returns when each was started (Unix seconds)."""
    sent: dict[int, list[float]] = {}
    begin = time.perf_counter() + 0.05
    numbers = iter(range(count))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(*environment.address)
        for number in numbers:
            user = users[number % len(users)]
            await asyncio.sleep(max(0.0, begin + number / per_s - time.perf_counter()))
            sent.setdefault(user, []).append(time.time())
            writer.write(load.post(environment, fax(owner(user)), "application/json"))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(worker() for _ in range(32)))
    return sent


def backlog(sizes: Sizes) -> Figures:
    """Events that were never tried, a thousand and very many: start, first delivery, claim, and rate of delivery."""
    figures = Figures()
    few = 1000
    with prepared([Group(sizes.users)]) as small, prepared([Group(sizes.users)]) as large:
        for environment, count in ((small, few), (large, sizes.backlog)):
            asyncio.run(append(environment, count))
        claims = [statistics.median(asyncio.run(_claims(environment))) for environment in (small, large)]
        figures.add("claim_growth", claims[1] / claims[0])
        start(large, figures, "backlog")
        large.wait_for(large.settled, 50_000)
        large.pause()
        small.start_server()
        requests = load.batches(small, sizes.events, small.groups[0])
        warm_up(small, small.groups[0])
        for _ in range(sizes.rounds):
            # What waits in the table is read and decoded; what was just accepted is given to delivery from memory.
            few_took = load.deliver(small, requests, sizes.events)
            large.resume()
            before, started = large.settled(), time.perf_counter()
            large.wait_for(large.settled, before + sizes.events)
            figures.add("growth_backlog", few_took / (time.perf_counter() - started))
            large.pause()
        large.resume()
    return figures


def parked(sizes: Sizes) -> Figures:
    """The same for events that were tried and wait for a provider that was out of reach for a while."""
    figures = Figures()
    with prepared([Group(sizes.users)]) as environment:
        park(environment, sizes.backlog)
        start(environment, figures, "parked")
    return figures


def park(environment: Environment, count: int) -> None:
    """Hand in so many events while the provider is out of reach, then end the server."""
    environment.start_server(TOCSIN_APNS__PRODUCTION_URL="https://localhost:9")
    assert environment.server is not None
    for first in range(0, count, 50_000):
        requests = load.batches(environment, min(50_000, count - first), environment.groups[0])
        load.send(environment.address, requests, 4)
    environment.wait_for(environment.settled, count, 600)
    environment.server.child.kill()
    environment.server.child.wait()


def start(environment: Environment, figures: Figures, prefix: str) -> None:
    """Start the server: how long until it listens, and from then until the first push."""
    figures.add(f"{prefix}_start_s", environment.start_server())
    ready = time.perf_counter()
    while not environment.accepted():
        time.sleep(0.002)
    figures.add(f"{prefix}_first_s", time.perf_counter() - ready)


async def append(environment: Environment, count: int) -> None:
    """Append directly to the queue while no server runs: events that are accepted and not tried yet."""
    now_ms = int(time.time() * 1000)
    users = environment.groups[0]
    async with open_store(environment.settings) as store:
        for first in range(0, count, 5000):
            batch = []
            for number in range(first, min(count, first + 5000)):
                user = owner(users[number % len(users)])
                id = EventId(str(uuid4()))
                batch.append(Event(id, UserId(user), "fax_new", now_ms, now_ms + 86_400_000, fax(user)))
            await store.queue.append(batch)


async def _claims(environment: Environment, limit: int = 100) -> list[float]:
    """The seconds that each of the first claims takes in a server."""
    took = []
    async with open_store(environment.settings, server=True) as store:
        await store.start()
        for _ in range(9):
            started = time.perf_counter()
            items = await store.queue.claim(limit)
            took.append(time.perf_counter() - started)
            assert len(items) == limit
    return took


def memory(sizes: Sizes) -> Figures:
    """A producer ten times faster than the provider: resident memory in the last minute over that in the second."""
    with prepared([Group(sizes.users)]) as environment:
        # A thousand streams that take 500 ms each: 2,000/s, while 20,000/s are sent to the server.
        environment.start_server(TOCSIN_APNS__MAX_CONNECTIONS="1")
        environment.control("PUT", "/faults", {"latency": {"fixed_ms": 500}})
        assert environment.server is not None
        requests = load.batches(environment, 20_000, environment.groups[0])
        begin = time.perf_counter()
        samples: list[tuple[float, float]] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                assert environment.server is not None
                samples.append((time.perf_counter() - begin, environment.server.resident_mib()))

        def paced() -> Iterator[bytes]:
            for number, request in enumerate(cycle(requests)):
                time.sleep(max(0.0, begin + number * 0.1 - time.perf_counter()))
                if time.perf_counter() > begin + sizes.memory_s:
                    return
                yield request

        watching = threading.Thread(target=watch)
        watching.start()
        load.send(environment.address, paced(), 1, refusals=True)
        stop.set()
        watching.join()
        figures = Figures()
        figures.samples["memory"] = [value for sample in samples for value in sample]
        second = statistics.median(mib for at, mib in samples if 60 <= at < 120)
        last = statistics.median(mib for at, mib in samples if at >= sizes.memory_s - 60)
        figures.add("memory_flat", last / second)
        figures.add("memory_flat_mib", max(mib for _, mib in samples))
        return figures
