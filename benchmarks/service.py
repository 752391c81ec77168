"""What the producers and the apps see: single events, latency, and what a large backlog does."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from uuid import uuid4

import msgspec

from benchmarks import load
from benchmarks.report import Figures
from benchmarks.sizes import Sizes
from benchmarks.stage import Group, Stage, fax, owner, staged, token
from benchmarks.throughput import warm_up
from tocsin.domain.events import Event, EventId, UserId
from tocsin.settings import Settings, Store
from tocsin.store.configured import open_store
from tocsin.store.ports import NewEvent


def single_posts(sizes: Sizes) -> Figures:
    """One event a POST, 64 keep-alive connections, durable before the 202; then `GET /api/push` likewise."""
    with staged([Group(sizes.users)]) as stage:
        stage.start_server()
        (users,) = stage.groups
        events = [load.post(stage, fax(owner(users[n % len(users)])), "application/json") for n in range(sizes.posts)]
        gets = [load.get_push(stage)] * sizes.posts
        figures = Figures()
        load.deliver(stage, events[:2000], 2000)
        for _ in range(sizes.rounds):
            settled = stage.settled()
            figures.add("single_post_per_s", sizes.posts / load.send(stage.address, events, 64))
            stage.wait_for(stage.settled, settled + sizes.posts)
            figures.add("get_push_per_s", sizes.posts / load.send(stage.address, gets, 64))
        return figures


def latency(sizes: Sizes, per_s: int = 2000) -> Figures:
    """From the start of the POST to the provider's acceptance, at 2,000 events a second."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "journal"
        with staged([Group(sizes.users)], "--journal", str(journal)) as stage:
            stage.start_server()
            (users,) = stage.groups
            warm_up(stage, users)
            time.sleep(0.5)  # the journal is on disk within 0.1 s
            for _ in range(sizes.rounds if sizes.memory_s else 1):
                seen = len(journal.read_text().splitlines()) if journal.exists() else 0
                count = int(per_s * sizes.latency_s)
                settled = stage.settled()
                sent = asyncio.run(_paced(stage, users, count, per_s))
                stage.wait_for(stage.settled, settled + count)
                time.sleep(0.5)
                arrived: dict[str, list[float]] = {}
                for line in journal.read_text().splitlines()[seen:]:
                    entry = msgspec.json.decode(line)
                    arrived.setdefault(entry["token"], []).append(entry["t"])
                waits = sorted(
                    (end - start) * 1000
                    for user, times in sent.items()
                    for start, end in zip(times, sorted(arrived[token(user)]), strict=True)
                )
                figures.samples.setdefault("latency_ms", []).extend(waits)
                figures.add("latency_ms_p50", waits[len(waits) // 2])
                figures.add("latency_ms_p99", waits[int(len(waits) * 0.99)])
    return figures


async def _paced(stage: Stage, users: range, count: int, per_s: int) -> dict[int, list[float]]:
    """`count` single POSTs at an even pace over 32 connections; returns when each was started (Unix seconds)."""
    sent: dict[int, list[float]] = {}
    begin = time.perf_counter() + 0.05
    numbers = iter(range(count))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(*stage.address)
        for number in numbers:
            user = users[number % len(users)]
            await asyncio.sleep(max(0.0, begin + number / per_s - time.perf_counter()))
            sent.setdefault(user, []).append(time.time())
            writer.write(load.post(stage, fax(owner(user)), "application/json"))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(worker() for _ in range(32)))
    return sent


def backlog(sizes: Sizes) -> Figures:
    """Fresh events that wait, a thousand and very many: start, first delivery, claim, and the pace of the drain."""
    figures = Figures()
    few = 1000
    with staged([Group(sizes.users)]) as small, staged([Group(sizes.users)]) as large:
        for stage, count in ((small, few), (large, sizes.backlog)):
            asyncio.run(_append(stage, count))
        claims = [statistics.median(asyncio.run(_claims(stage))) for stage in (small, large)]
        figures.add("claim_growth", claims[1] / claims[0])
        _start(large, figures, "backlog")
        large.wait_for(large.settled, 50_000)
        large.pause()
        small.start_server()
        requests = load.batches(small, sizes.events, small.groups[0])
        warm_up(small, small.groups[0])
        for _ in range(sizes.rounds):
            # What waits in the table is read and decoded; what was just accepted is handed on. Both are the line.
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
    with staged([Group(sizes.users)]) as stage:
        stage.start_server(TOCSIN_APNS__PRODUCTION_URL="https://localhost:9")
        assert stage.server is not None
        for first in range(0, sizes.backlog, 50_000):
            load.send(stage.address, load.batches(stage, min(50_000, sizes.backlog - first), stage.groups[0]), 4)
        stage.wait_for(stage.settled, sizes.backlog, 600)
        stage.server.child.kill()
        stage.server.child.wait()
        _start(stage, figures, "parked")
    return figures


def _start(stage: Stage, figures: Figures, prefix: str) -> None:
    figures.add(f"{prefix}_start_s", stage.start_server())
    ready = time.perf_counter()
    while not stage.accepted():
        time.sleep(0.002)
    figures.add(f"{prefix}_first_s", time.perf_counter() - ready)


async def _append(stage: Stage, count: int) -> None:
    """As if accepted and not yet tried: straight into the queue, with no server to deliver it."""
    now_ms = int(time.time() * 1000)
    users = stage.groups[0]
    async with open_store(Settings(store=Store(path=stage.database))) as store:
        for first in range(0, count, 5000):
            batch = []
            for number in range(first, min(count, first + 5000)):
                user = owner(users[number % len(users)])
                event = Event(EventId(str(uuid4())), UserId(user), "fax_new", now_ms, now_ms + 86_400_000, fax(user))
                batch.append(NewEvent(event))
            await store.queue.append(batch)


async def _claims(stage: Stage, limit: int = 100) -> list[float]:
    """The seconds that each of some claims took, as a server that has just started makes them."""
    took = []
    async with open_store(Settings(store=Store(path=stage.database)), exclusive=True) as store:
        await store.queue.start()
        for _ in range(9):
            started = time.perf_counter()
            items = await store.queue.claim(limit, {})
            took.append(time.perf_counter() - started)
            assert len(items) == limit
    return took


def memory(sizes: Sizes) -> Figures:
    """A producer ten times faster than the provider: resident memory in the last minute over that in the second."""
    with staged([Group(sizes.users)]) as stage:
        # A thousand streams that take 500 ms each: 2,000/s, and 20,000/s handed in.
        stage.start_server(TOCSIN_APNS__MAX_CONNECTIONS="1")
        stage.control("PUT", "/faults", {"latency": {"fixed_ms": 500}})
        assert stage.server is not None
        requests = load.batches(stage, 20_000, stage.groups[0])
        begin = time.perf_counter()
        samples: list[tuple[float, float]] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                assert stage.server is not None
                samples.append((time.perf_counter() - begin, stage.server.resident_mib()))

        def paced() -> Iterator[bytes]:
            for number, request in enumerate(cycle(requests)):
                time.sleep(max(0.0, begin + number * 0.1 - time.perf_counter()))
                if time.perf_counter() > begin + sizes.memory_s:
                    return
                yield request

        watching = threading.Thread(target=watch)
        watching.start()
        load.send(stage.address, paced(), 1, refusals=True)
        stop.set()
        watching.join()
        figures = Figures()
        figures.samples["memory"] = [value for sample in samples for value in sample]
        second = statistics.median(mib for at, mib in samples if 60 <= at < 120)
        last = statistics.median(mib for at, mib in samples if at >= sizes.memory_s - 60)
        figures.add("memory_flat", last / second)
        figures.add("memory_flat_mib", max(mib for _, mib in samples))
        return figures
