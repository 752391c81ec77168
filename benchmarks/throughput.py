"""End to end: NDJSON over HTTP, durable, look-up, rendered, TLS HTTP/2, receipt. Peers take turns with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import engine, load
from benchmarks.peers import PEERS, Absent, Peer
from benchmarks.report import Figures
from benchmarks.sizes import Sizes
from benchmarks.stage import FAILING, SILENT, Group, Stage, environment, staged


def warm_up(stage: Stage, users: range, devices: int = 1) -> None:
    """Connections, caches, and what a process only does the first time."""
    load.deliver(stage, load.batches(stage, 5000, users), 5000, devices)


def end_to_end(sizes: Sizes, peers: tuple[str, ...]) -> Figures:
    """The line with its CPU and memory, each peer after it in every round, and the limits of this set-up."""
    with ExitStack() as stack:
        stage = stack.enter_context(staged([Group(sizes.users)]))
        stage.start_server()
        (users,) = stage.groups
        requests = load.batches(stage, sizes.events, users)
        figures = Figures()
        running: dict[str, Peer] = {}
        for name in PEERS:
            if name not in peers:
                figures.absent(f"end_to_end_vs_{name}", "in the full run only")
                continue
            try:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                running[name] = stack.enter_context(PEERS[name](stage.emulator, directory))
            except Absent as absent:
                figures.absent(f"end_to_end_vs_{name}", str(absent))
        warm_up(stage, users)
        assert stage.server is not None
        for _ in range(sizes.rounds):
            before = stage.server.cpu_s()
            rate = sizes.events / load.deliver(stage, requests, sizes.events)
            figures.add("end_to_end_per_s", rate)
            figures.add("cpu_us_per_delivery", (stage.server.cpu_s() - before) / sizes.events * 1e6)
            for name, peer in running.items():
                theirs = peer.rate(sizes.peer_pushes // 4 if name == "aioapns" else sizes.peer_pushes)
                figures.add(f"{name}_per_s", theirs)
                figures.add(f"end_to_end_vs_{name}", rate / theirs)
        figures.add("memory_mib", stage.server.peak_mib())
        _limits(stage, requests, sizes, figures)
        return figures


def _limits(stage: Stage, requests: list[bytes], sizes: Sizes, figures: Figures) -> None:
    """What the generator and the emulator reach alone: neither may be what is measured."""
    command = [sys.executable, "-m", "benchmarks.sink"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout is not None
        address = ("127.0.0.1", int(sink.stdout.readline()))
        for _ in range(sizes.rounds):
            figures.add("generator_alone_per_s", sizes.events / load.send(address, requests, 4))
        sink.kill()
    for _ in range(sizes.rounds):
        rate, cpu_us = engine.emulator_alone(stage, sizes.events)
        figures.add("emulator_alone_per_s", rate)
        figures.add("emulator_cpu_us", cpu_us)


def shapes(sizes: Sizes) -> Figures:
    """FCM, and ten devices each, beside one APNs device each: by turns on one server."""
    few = max(1000, sizes.users // 10)
    with staged([Group(sizes.users), Group(sizes.users, system="fcm"), Group(few, devices=10)]) as stage:
        stage.start_server()
        apns, fcm, ten = stage.groups
        loads = [
            (load.batches(stage, sizes.events, apns), sizes.events, 1),
            (load.batches(stage, sizes.events, fcm), sizes.events, 1),
            (load.batches(stage, sizes.events // 10, ten, size=500), sizes.events // 10, 10),
        ]
        for users, devices in ((apns, 1), (fcm, 1), (ten, 10)):
            warm_up(stage, users, devices)
        figures = Figures()
        for _ in range(sizes.rounds):
            one, other, many = (
                events * devices / load.deliver(stage, requests, events, devices) for requests, events, devices in loads
            )
            figures.add("fcm_share", other / one)
            figures.add("growth_devices", many / one)
        return figures


def growth_users(sizes: Sizes) -> Figures:
    """The same load over 1 k and over many registered users, of whom each round rings others: two servers, by turns."""
    few, many = 1000, sizes.many_users
    # The emulator is to have the same work with both: it knows where a thousand tokens belong, and no more.
    emulator = ("--known-tokens", str(few))
    users = [[Group(few, reached=True)], [Group(many, reached=True)]]
    with staged(users[0], *emulator) as small, staged(users[1], *emulator) as large:
        figures = Figures()
        for stage in (small, large):
            stage.start_server()
            # As many as fill what is kept in memory, and more.
            load.deliver(stage, load.batches(stage, 2 * sizes.events, stage.groups[0]), 2 * sizes.events)
        for number in range(2, 2 + 2 * sizes.rounds):
            took = []
            for stage in (small, large):
                requests = load.batches(stage, sizes.events, stage.groups[0], first=number * sizes.events)
                took.append(load.deliver(stage, requests, sizes.events))
            figures.add("growth_users", took[0] / took[1])
        return figures


def stream_limited(sizes: Sizes) -> Figures:
    """A provider that takes 40 ms, 1,000 streams, one connection: the share of the 25,000/s that this allows.

    Measured over the middle of a load that waits to be sent, so that neither its ramp nor its tail counts.
    """
    with staged([Group(sizes.users)]) as stage:
        stage.start_server(TOCSIN_APNS__MAX_CONNECTIONS="1")
        stage.control("PUT", "/faults", {"latency": {"fixed_ms": 40}})
        (users,) = stage.groups
        requests = load.batches(stage, sizes.events, users)
        warm_up(stage, users)
        figures = Figures()
        for _ in range(sizes.rounds):
            with load.watching(stage) as rate_between:
                load.deliver(stage, requests, sizes.events)
            figures.add("latency_limited_share", rate_between(0.2, 0.8) / 25_000)
        return figures


def isolation(sizes: Sizes) -> Figures:
    """A lane beside one whose provider only says 503 and one that is never answered, over the same lane alone.

    All three have the same key, and so the same connections. Each sick one has 2,000 events that wait and gets 500 more
    a second. Two servers, by turns; the emulators look every request up in the same rules.
    """
    sick = [Group(1000, application=FAILING), Group(1000, application=SILENT)]
    rules = [
        {"match": {"application": FAILING}, "status": 503, "reason": "ServiceUnavailable"},
        {"match": {"application": SILENT}, "no_answer": True},
    ]
    with staged([Group(sizes.users)]) as calm, staged([Group(sizes.users), *sick]) as troubled:
        loads = []
        for stage in (calm, troubled):
            stage.control("PUT", "/faults", {"rules": rules})
            stage.start_server()
            warm_up(stage, stage.groups[0])
            loads.append(load.batches(stage, sizes.events, stage.groups[0]))
        ill = troubled.groups[1:]
        load.send(troubled.address, [load.ndjson(troubled, users) for users in ill] * 2, 2)
        more = [load.ndjson(troubled, users[:50]) for users in ill]
        figures = Figures()
        for _ in range(sizes.rounds):
            alone = load.deliver(calm, loads[0], sizes.events, receipts=False)
            with load.trickle(troubled, more, 0.05):
                beside = load.deliver(troubled, loads[1], sizes.events, receipts=False)
            figures.add("isolation", alone / beside)
        return figures
