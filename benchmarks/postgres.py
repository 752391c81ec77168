"""The store on PostgreSQL beside the embedded one: by turns, in one run, each with a server that waits for its disk."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from tests.support.postgres_server import PostgresServer, remove

from benchmarks import load, service
from benchmarks.environment import Environment, Group, Process, prepared
from benchmarks.report import Figures
from benchmarks.sizes import Sizes
from benchmarks.throughput import growth_users, warm_up

_numbers = itertools.count(1)


@contextmanager
def server_of_postgres() -> Iterator[PostgresServer]:
    """PostgreSQL as it is installed: every commit waits until it is on the disk."""
    server = PostgresServer({"shared_buffers": "512MB", "max_wal_size": "4GB"}).start()
    try:
        yield server
    finally:
        remove(server)


def new_database(server: PostgresServer) -> str:
    """The URL of a new, empty database."""
    name = f"bench{next(_numbers)}"

    async def create() -> None:
        connection = await asyncpg.connect(server.url())
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return server.url(name)


def against_embedded(sizes: Sizes) -> Figures:
    """End to end with the same load: rate, CPU of tocsin's process, and single events."""
    figures = Figures()
    with (
        server_of_postgres() as server,
        prepared([Group(sizes.users)]) as embedded,
        prepared([Group(sizes.users)], store_url=new_database(server)) as other,
    ):
        loads = []
        for environment in (embedded, other):
            environment.start_server()
            warm_up(environment, environment.groups[0])
            loads.append(load.batches(environment, sizes.events, environment.groups[0]))
            # Each device is reached for the first time, which is noted: it happens once in the life of a device.
            load.deliver(environment, loads[-1], sizes.events)
        for _ in range(sizes.rounds):
            rounds = [
                _round(environment, requests, sizes.events)
                for environment, requests in zip((embedded, other), loads, strict=True)
            ]
            took, cpu = zip(*rounds, strict=True)
            figures.add("postgres_share", took[0] / took[1])
            figures.add("postgres_cpu", cpu[1] / cpu[0])
            figures.add("postgres_per_s", sizes.events / took[1])
        posts = [service.posts(environment, sizes.posts) for environment in (embedded, other)]
        for _ in range(sizes.rounds):
            rates = [
                _single(environment, requests) for environment, requests in zip((embedded, other), posts, strict=True)
            ]
            figures.add("postgres_single_post_per_s", rates[1])
            figures.add("postgres_single_post_share", rates[1] / rates[0])
    return figures


def _round(environment: Environment, requests: list[bytes], events: int) -> tuple[float, float]:
    """How long it took, and the CPU of the server, in seconds."""
    assert environment.server is not None
    before = environment.server.cpu_s()
    took = load.deliver(environment, requests, events)
    return took, environment.server.cpu_s() - before


def _single(environment: Environment, requests: list[bytes]) -> float:
    """How many requests with one event each are answered in a second."""
    settled = environment.settled()
    rate = len(requests) / load.send(environment.address, requests, 64)
    environment.wait_for(environment.settled, settled + len(requests))
    return rate


def latency(sizes: Sizes) -> Figures:
    """As `service.latency`, on the embedded store and on PostgreSQL by turns."""
    figures = Figures()
    with (
        server_of_postgres() as server,
        service.followed(sizes) as embedded,
        service.followed(sizes, new_database(server)) as other,
    ):
        for _ in range(sizes.rounds):
            service.add_waits(figures, "embedded_latency", embedded.waits_ms(sizes.latency_s))
            service.add_waits(figures, "postgres_latency", other.waits_ms(sizes.latency_s))
    return figures


def growth(sizes: Sizes) -> Figures:
    """A million devices, and a million events that wait or are parked: rate beside that with few, and the start."""
    figures = Figures()
    with server_of_postgres() as server:
        urls = (new_database(server), new_database(server))
        figures.take(growth_users(sizes, store_urls=urls, figure="postgres_growth_users"))
        with prepared([Group(sizes.users)], store_url=new_database(server)) as waiting:
            asyncio.run(service.append(waiting, sizes.backlog))
            service.start(waiting, figures, "postgres_backlog")
        with prepared([Group(sizes.users)], store_url=new_database(server)) as parked:
            service.park(parked, sizes.backlog)
            service.start(parked, figures, "postgres_parked")
    return figures


def nodes(sizes: Sizes) -> Figures:
    """Two nodes against one: the CPU of all of tocsin's processes for a delivery."""
    figures = Figures()
    with (
        server_of_postgres() as server,
        prepared([Group(sizes.users)], store_url=new_database(server)) as one,
        prepared([Group(sizes.users)], store_url=new_database(server)) as two,
    ):
        one.start_server()
        two.start_server()
        first = two.server
        two.start_server(beside=True)
        servers: dict[str, list[Process]] = {}
        for name, environment in (("one", one), ("two", two)):
            assert environment.server is not None
            servers[name] = [environment.server]
            warm_up(environment, environment.groups[0])
        assert first is not None
        servers["two"].append(first)
        for _ in range(sizes.rounds):
            cpu = {}
            for name, environment in (("one", one), ("two", two)):
                before = sum(process.cpu_s() for process in servers[name])
                requests = load.batches(environment, sizes.events, environment.groups[0])
                load.deliver(environment, requests, sizes.events)
                cpu[name] = sum(process.cpu_s() for process in servers[name]) - before
            figures.add("postgres_two_nodes_cpu", cpu["two"] / cpu["one"])
    return figures
