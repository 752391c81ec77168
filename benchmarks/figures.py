"""The figures: one function each, that gives the measured values of several rounds."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks import load
from benchmarks.stage import Stage, fax, owner, staged


class Sizes(msgspec.Struct, frozen=True):
    """How much to measure: `quick` for a look, `full` for the docs."""

    users: int
    events: int
    rounds: int
    posts: int
    many_users: int
    backlog: int
    latency_s: float


QUICK = Sizes(users=10_000, events=20_000, rounds=2, posts=8_000, many_users=0, backlog=0, latency_s=3)
FULL = Sizes(
    users=100_000, events=100_000, rounds=5, posts=40_000, many_users=1_000_000, backlog=1_000_000, latency_s=20
)

Values = dict[str, list[float]]


@contextmanager
def _stage(users: int, *, devices: int = 1, system: str = "apns", options: tuple[str, ...] = ()) -> Iterator[Stage]:
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as directory,
        staged(Path(directory), users=users, devices=devices, system=system, emulator_options=options) as stage,
    ):
        yield stage


def _rounds(stage: Stage, events: int, users: int, rounds: int, *, devices: int = 1) -> Values:
    """End to end: NDJSON over HTTP, durable, look-up, TLS HTTP/2, receipt."""
    rates, cpu = [], []
    assert stage.server is not None
    requests = load.batches(stage, events, users)
    load.deliver(stage, requests[:4], min(4 * 2000, events) * devices)  # connections, caches
    for _ in range(rounds):
        before = stage.server.cpu_s()
        took = load.deliver(stage, requests, events * devices)
        while stage.backlog():
            time.sleep(0.02)
        rates.append(events * devices / took)
        cpu.append((stage.server.cpu_s() - before) / (events * devices) * 1e6)
    return {"rate": rates, "cpu_us": cpu}


def end_to_end(sizes: Sizes) -> Values:
    with _stage(sizes.users) as stage:
        stage.start_server()
        found = _rounds(stage, sizes.events, sizes.users, sizes.rounds)
        assert stage.server is not None
        return {
            "end_to_end_per_s": found["rate"],
            "cpu_us_per_delivery": found["cpu_us"],
            "memory_mib": [stage.server.peak_mib()],
        }


def fcm(sizes: Sizes, apns_rate: float) -> Values:
    with _stage(sizes.users, system="fcm") as stage:
        stage.start_server()
        found = _rounds(stage, sizes.events, sizes.users, sizes.rounds)
        return {"fcm_share": [rate / apns_rate for rate in found["rate"]], "fcm_per_s": found["rate"]}


def ten_devices(sizes: Sizes, apns_rate: float) -> Values:
    users = max(1000, sizes.users // 10)
    with _stage(users, devices=10) as stage:
        stage.start_server()
        found = _rounds(stage, sizes.events // 10, users, sizes.rounds, devices=10)
        return {"growth_devices": [rate / apns_rate for rate in found["rate"]]}


def growth_users(sizes: Sizes) -> Values:
    """1 k against 1 M registered users: the same load, spread over all of them."""
    few, many = 1000, sizes.many_users
    rates = {}
    for users in (few, many):
        with _stage(users) as stage:
            stage.start_server()
            rates[users] = statistics.median(_rounds(stage, sizes.events, users, sizes.rounds)["rate"])
    return {"growth_users": [rates[many] / rates[few]]}


def single_posts(sizes: Sizes) -> Values:
    """One event a POST, 64 keep-alive connections, durable before the 202; then `GET /api/push` likewise."""
    with _stage(sizes.users) as stage:
        stage.start_server()
        events = [load.post(stage, fax(owner(n % sizes.users)), "application/json") for n in range(sizes.posts)]
        gets = [load.get_push(stage)] * sizes.posts
        found: Values = {"single_post_per_s": [], "get_push_per_s": []}
        load.send(stage, events[:500], 64)
        for _ in range(sizes.rounds):
            found["single_post_per_s"].append(sizes.posts / load.send(stage, events, 64))
            while stage.backlog():
                time.sleep(0.02)
            found["get_push_per_s"].append(sizes.posts / load.send(stage, gets, 64))
        return found


def latency(sizes: Sizes, per_s: int = 2000) -> tuple[Values, list[float]]:
    """From the start of the POST to the provider's acceptance, at 2,000 events a second."""
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "journal"
        with _stage(sizes.users, options=("--journal", str(journal))) as stage:
            stage.start_server()
            load.deliver(stage, load.batches(stage, 2000, sizes.users), 2000)
            count = int(per_s * sizes.latency_s)
            sent = asyncio.run(_paced(stage, sizes.users, count, per_s))
            while stage.backlog():
                time.sleep(0.05)
            time.sleep(0.5)
            arrived = {}
            for line in journal.read_text().splitlines()[2000:]:
                entry = msgspec.json.decode(line)
                arrived.setdefault(entry["token"], []).append(entry["t"])
        waits = []
        for user, times in sent.items():
            for start, end in zip(times, sorted(arrived.get(f"{user:032x}{0:032x}", [])), strict=False):
                waits.append((end - start) * 1000)
    waits.sort()
    return {"latency_ms_p50": [waits[len(waits) // 2]], "latency_ms_p99": [waits[int(len(waits) * 0.99)]]}, waits


async def _paced(stage: Stage, users: int, count: int, per_s: int) -> dict[int, list[float]]:
    """`count` single POSTs at an even pace over 32 connections; returns when each was started (Unix seconds)."""
    sent: dict[int, list[float]] = {}
    begin = time.perf_counter() + 0.05
    numbers = iter(range(count))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(*stage.address)
        for number in numbers:
            user = number % users
            await asyncio.sleep(max(0.0, begin + number / per_s - time.perf_counter()))
            sent.setdefault(user, []).append(time.time())
            writer.write(load.post(stage, fax(owner(user)), "application/json"))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(worker() for _ in range(32)))
    return sent


def latency_limited(sizes: Sizes) -> Values:
    """A provider that takes 40 ms, 1,000 streams, one connection: the share of the 25,000/s that this allows."""
    with _stage(sizes.users) as stage:
        stage.start_server(TOCSIN_APNS__MAX_CONNECTIONS="1")
        stage.control("PUT", "/faults", {"latency": {"fixed_ms": 40}})
        found = _rounds(stage, sizes.events, sizes.users, sizes.rounds)
        return {"latency_limited_share": [rate / 25_000 for rate in found["rate"]]}


def isolation(sizes: Sizes) -> Values:
    """The production lane alone, then beside a sandbox lane that only fails and one that never answers."""
    found: Values = {"isolation": []}
    with _stage(sizes.users) as stage:
        stage.start_server(TOCSIN_APNS__REQUEST_TIMEOUT_S="5")
        asyncio.run(_register_sick(stage))
        requests = load.batches(stage, sizes.events, sizes.users)
        sick = [
            load.post(stage, b"\n".join([fax(_SICK[n % 2]) for n in range(200)]) + b"\n", "application/x-ndjson")
        ] * 10
        load.deliver(stage, requests[:2], min(4000, sizes.events))
        rules = [
            {"match": {"environment": "sandbox", "token": "f" * 64}, "status": 503, "reason": "ServiceUnavailable"},
            {"match": {"token": "e" * 64}, "no_answer": True},
        ]
        for _ in range(sizes.rounds):
            # Alike in both: the emulator looks every request up in the same rules.
            stage.control("PUT", "/faults", {"rules": rules})
            alone = load.deliver(stage, requests, sizes.events)
            load.send(stage, sick, 2)
            time.sleep(1.5)
            beside = load.deliver(stage, requests, sizes.events)
            found["isolation"].append(alone / beside)
    return found


_SICK = ("11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000")


async def _register_sick(stage: Stage) -> None:
    from benchmarks.stage import APPLICATION
    from tocsin.domain.devices import Device
    from tocsin.settings import Settings, Store
    from tocsin.store.configured import open_store

    async with open_store(Settings(store=Store(path=stage.directory / "tocsin.db"))) as store:
        for user, token in zip(_SICK, ("f" * 64, "e" * 64), strict=True):
            await store.registry.add(Device(user, "apns", token, APPLICATION, True, None, 1), 100)


def backlog(sizes: Sizes) -> Values:
    """A million events that wait: how long the server takes to start, and to deliver the first of them."""
    with _stage(sizes.users) as stage:
        # Nobody listens at the provider's address, so that everything stays in the queue.
        stage.start_server(TOCSIN_APNS__PRODUCTION_URL="https://localhost:9")
        for first in range(0, sizes.backlog, 100_000):
            load.send(stage, load.batches(stage, min(100_000, sizes.backlog - first), sizes.users, size=5000), 4)
        assert stage.server is not None
        stage.server.child.kill()
        stage.server.child.wait()
        took = stage.start_server()
        ready = time.perf_counter()
        while not stage.accepted():
            time.sleep(0.005)
        return {"backlog_start_s": [took], "backlog_first_s": [time.perf_counter() - ready]}


def memory_flat(sizes: Sizes) -> Values:
    """A producer ten times faster than the provider: resident memory at the end over that after a quarter."""
    with _stage(sizes.users) as stage:
        stage.start_server(TOCSIN_APNS__MAX_CONNECTIONS="1")
        stage.control("PUT", "/faults", {"latency": {"fixed_ms": 500}})
        assert stage.server is not None
        requests = load.batches(stage, 20_000, sizes.users)
        samples = []
        ends = time.perf_counter() + sizes.latency_s * 15
        while time.perf_counter() < ends:
            load.send(stage, requests, 2)
            samples.append(stage.server.resident_mib())
            time.sleep(0.5)
        return {"memory_flat": [samples[-1] / samples[len(samples) // 4]], "memory_flat_mib": samples}
