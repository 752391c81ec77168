"""End to end: NDJSON over HTTP, durable append, look-up, payload, HTTP/2 over TLS, receipt; and peers, by turns."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import engine, load
from benchmarks.environment import FAILING, SILENT, Environment, Group, child_variables, prepared
from benchmarks.peers import PEERS, Absent, Peer
from benchmarks.report import Figures
from benchmarks.sizes import Sizes


def warm_up(environment: Environment, users: range, devices: int = 1) -> None:
    """Opens connections, fills caches, and makes a process do what it does only once."""
    load.deliver(environment, load.batches(environment, 5000, users), 5000, devices)


def end_to_end(sizes: Sizes, peers: tuple[str, ...]) -> Figures:
    """Rate, CPU and memory of the server, each peer after it in every round, and the limits of this set-up."""
    with ExitStack() as stack:
        environment = stack.enter_context(prepared([Group(sizes.users)]))
        environment.start_server()
        (users,) = environment.groups
        requests = load.batches(environment, sizes.events, users)
        figures = Figures()
        running: dict[str, Peer] = {}
        for name in PEERS:
            if name not in peers:
                _absent(figures, name, "in the full run only")
                continue
            try:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                running[name] = stack.enter_context(PEERS[name](environment.emulator, directory))
            except Absent as absent:
                _absent(figures, name, str(absent))
        warm_up(environment, users)
        assert environment.server is not None
        for _ in range(sizes.rounds):
            before = environment.server.cpu_s()
            rate = sizes.events / load.deliver(environment, requests, sizes.events)
            cpu_s = (environment.server.cpu_s() - before) / sizes.events
            figures.add("end_to_end_per_s", rate)
            figures.add("cpu_us_per_delivery", cpu_s * 1e6)
            for name, peer in running.items():
                pushes = sizes.peer_pushes // 4 if name == "aioapns" else sizes.peer_pushes
                before = peer.cpu_s()
                theirs = peer.rate(pushes)
                figures.add(f"{name}_per_s", theirs)
                figures.add(f"end_to_end_vs_{name}", rate / theirs)
                figures.add(f"cpu_vs_{name}", cpu_s / ((peer.cpu_s() - before) / pushes))
        figures.add("memory_mib", environment.server.peak_mib())
        _limits(environment, requests, sizes, figures)
        return figures


def _absent(figures: Figures, peer: str, why: str) -> None:
    for name in (f"end_to_end_vs_{peer}", f"cpu_vs_{peer}"):
        figures.absent(name, why)


def _limits(environment: Environment, requests: list[bytes], sizes: Sizes, figures: Figures) -> None:
    """The rates of the load generator and of the emulator alone: neither may limit the others."""
    command = [sys.executable, "-m", "benchmarks.sink"]
    with subprocess.Popen(command, env=child_variables(), stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout is not None
        address = ("127.0.0.1", int(sink.stdout.readline()))
        for _ in range(sizes.rounds):
            figures.add("generator_alone_per_s", sizes.events / load.send(address, requests, 4))
        sink.kill()
    for _ in range(sizes.rounds):
        rate, cpu_us = engine.emulator_alone(environment, sizes.events)
        figures.add("emulator_alone_per_s", rate)
        figures.add("emulator_cpu_us", cpu_us)


def shapes(sizes: Sizes) -> Figures:
    """FCM, and ten devices each, beside one APNs device each: by turns on one server."""
    few = max(1000, sizes.users // 10)
    with prepared([Group(sizes.users), Group(sizes.users, system="fcm"), Group(few, devices=10)]) as environment:
        environment.start_server()
        apns, fcm, ten = environment.groups
        loads = [
            (load.batches(environment, sizes.events, apns), sizes.events, 1),
            (load.batches(environment, sizes.events, fcm), sizes.events, 1),
            (load.batches(environment, sizes.events // 10, ten, size=500), sizes.events // 10, 10),
        ]
        for users, devices in ((apns, 1), (fcm, 1), (ten, 10)):
            warm_up(environment, users, devices)
        figures = Figures()
        for _ in range(sizes.rounds):
            one, other, many = (
                events * devices / load.deliver(environment, requests, events, devices)
                for requests, events, devices in loads
            )
            figures.add("fcm_share", other / one)
            figures.add("growth_devices", many / one)
        return figures


def growth_users(sizes: Sizes, *, store_urls: tuple[str, str] = ("", ""), figure: str = "growth_users") -> Figures:
    """The same load over 1 k and over many registered users; each round is for other users: two servers, by turns."""
    few, many = 1000, sizes.many_users
    # Both emulators have the same work: each remembers a thousand tokens.
    emulator = ("--known-tokens", str(few))
    users = [[Group(few, reached=True)], [Group(many, reached=True)]]
    with (
        prepared(users[0], *emulator, store_url=store_urls[0]) as small,
        prepared(users[1], *emulator, store_url=store_urls[1]) as large,
    ):
        figures = Figures()
        for environment in (small, large):
            environment.start_server()
            # More than what the server keeps in memory.
            requests = load.batches(environment, 2 * sizes.events, environment.groups[0])
            load.deliver(environment, requests, 2 * sizes.events)
        for number in range(2, 2 + 2 * sizes.rounds):
            took = []
            for environment in (small, large):
                requests = load.batches(environment, sizes.events, environment.groups[0], first=number * sizes.events)
                took.append(load.deliver(environment, requests, sizes.events))
            figures.add(figure, took[0] / took[1])
        return figures


def stream_limited(sizes: Sizes) -> Figures:
    """A provider that takes 40 ms, 1,000 streams, one connection: the share of the 25,000/s that this allows.

    Measured over the middle of the load, so that neither its beginning nor its end counts.
    """
    with prepared([Group(sizes.users)]) as environment:
        environment.start_server(TOCSIN_APNS__MAX_CONNECTIONS="1")
        environment.control("PUT", "/faults", {"latency": {"fixed_ms": 40}})
        (users,) = environment.groups
        requests = load.batches(environment, sizes.events, users)
        warm_up(environment, users)
        figures = Figures()
        for _ in range(sizes.rounds):
            with load.watching(environment) as rate_between:
                load.deliver(environment, requests, sizes.events)
            figures.add("latency_limited_share", rate_between(0.2, 0.8) / 25_000)
        return figures


def isolation(sizes: Sizes) -> Figures:
    """A lane beside one that gets only 503 and one that gets no response, over the same lane alone.

    All three have the same key, and so the same connections. Each failing one has 2,000 events that wait and gets 500
    more a second. Two servers, by turns; both emulators have the same rules.
    """
    failing = [Group(1000, application=FAILING), Group(1000, application=SILENT)]
    rules = [
        {"match": {"application": FAILING}, "status": 503, "reason": "ServiceUnavailable"},
        {"match": {"application": SILENT}, "no_answer": True},
    ]
    with prepared([Group(sizes.users)]) as alone, prepared([Group(sizes.users), *failing]) as beside:
        loads = []
        for environment in (alone, beside):
            environment.control("PUT", "/faults", {"rules": rules})
            environment.start_server()
            warm_up(environment, environment.groups[0])
            loads.append(load.batches(environment, sizes.events, environment.groups[0]))
        failing_users = beside.groups[1:]
        load.send(beside.address, [load.ndjson(beside, users) for users in failing_users] * 2, 2)
        more = [load.ndjson(beside, users[:50]) for users in failing_users]
        figures = Figures()
        for _ in range(sizes.rounds):
            alone_s = load.deliver(alone, loads[0], sizes.events, receipts=False)
            with load.trickle(beside, more, 0.05):
                beside_s = load.deliver(beside, loads[1], sizes.events, receipts=False)
            figures.add("isolation", alone_s / beside_s)
        return figures
