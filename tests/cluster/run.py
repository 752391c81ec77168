"""One run: start a cluster, make parts of it fail under load, wait until nothing is left to deliver, verify, report."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from nats.js import JetStreamContext

from tests.cluster.backends import Backend, BadBackend
from tests.cluster.faults import Faults
from tests.cluster.running import Cluster, running_cluster
from tests.torture.afterwards import backlog, fetch_reports, report
from tests.torture.http_client import Client
from tests.torture.producers import BadProducer, Pace, Producer
from tests.torture.run import keep_waking, within
from tests.torture.sent_events import SentEvents
from tests.torture.users import User, make_users
from tests.torture.verification import Outages, verify
from tocsin.settings import load
from tocsin.store.opening import open_store

_OVER_HTTP: Final = ((1, True), (1, False), (40, True), (40, False), (200, True))
_OVER_THE_BUS: Final = ((1, True), (1, False), (30, True), (30, False))
"""Events a request or message at most, and whether the producer gives them ids."""
_REGISTERED_AT_ONCE: Final = 8


class Plan(Struct, frozen=True):
    """The size of a run, and its time limits."""

    events: int
    accepted: int
    """So many of them must be accepted, at least: while nothing can be stored none are."""
    users: int
    load_s: float
    database_faults: int
    """At least so many."""
    other_faults: int
    pause_s: float
    """Between two faults, in the mean."""
    cut_s: float
    """How long every connection to the database is cut."""
    drain_s: float
    """How long it may take afterwards until nothing is left to deliver."""
    backlog: int
    fetch_s: float
    """How long asking for every event may take."""
    most_s: float
    """When the run is given up."""
    brief: bool
    """One fault of the database, and a few of the others, beside each other."""


QUICK: Final = Plan(
    events=2500,
    accepted=2000,
    users=30,
    load_s=14,
    database_faults=1,
    other_faults=5,
    pause_s=0.2,
    cut_s=3,
    # A refusal that could not be stored is tried again after 30 s.
    drain_s=50,
    backlog=1500,
    fetch_s=20,
    most_s=110,
    brief=True,
)
FULL: Final = Plan(
    events=105_000,
    accepted=100_000,
    users=300,
    load_s=330,
    database_faults=15,
    other_faults=38,
    pause_s=0.4,
    cut_s=30,
    drain_s=120,
    backlog=8000,
    fetch_s=360,
    most_s=1100,
    brief=False,
)


async def torture(plan: Plan, seed: int, directory: Path, say: Callable[[str], None]) -> tuple[bool, list[str]]:
    """Run `plan`, with its files in `directory`; returns whether every event is accounted for, and the report."""
    return await within(plan.most_s, say, lambda note: _run(plan, seed, directory, note))


async def _run(plan: Plan, seed: int, directory: Path, say: Callable[[str], None]) -> tuple[bool, list[str]]:
    started = time.monotonic()
    rng = random.Random(seed)
    devices = make_users(plan.users, rng)
    async with running_cluster(directory, devices, _settings(plan)) as cluster, cluster.bus() as bus:
        users = [User(owner, cluster.sessions[owner], own) for owner, own in devices.items()]
        for user in rng.sample(users, len(users) // 6):
            user.changes_tokens = True
        await _register_all(cluster, users)
        say(f"{len(users)} users with {sum(len(user.devices) for user in users)} devices; the load begins")
        sent = SentEvents()
        pace = Pace(plan.events, plan.load_s)
        faults = Faults(cluster, users, pace, random.Random(rng.random()), plan.cut_s, say)
        waking = asyncio.create_task(keep_waking(cluster.operator))
        bad = BadBackend(bus, users, sent, random.Random(rng.random()))
        await _load_and_faults(plan, cluster, bus, faults, bad, pace, sent, users, rng)
        say("the load has ended; waiting until nothing is left to deliver")
        errors = await _wait_until_done(plan, cluster, bus)
        say("nothing is left; asking for every event")
        reports = await fetch_reports(cluster.api_ports, cluster.producer_key, sent, plan.fetch_s, errors)
        errors += await _refusals(bus, bad)
        waking.cancel()
        await asyncio.gather(waking, return_exceptions=True)
        say("stopping, and checking the store")
        faults.close()
        errors += await _stop_and_check(cluster)
        every_device = [device for user in users for device in user.devices]
        outages = Outages([], [], faults.disturbances)
        findings = verify(sent, every_device, cluster.emulator.accepted_pushes(), reports, outages)
        logs = [node.last_lines(8) for node in cluster.nodes] if findings.errors or errors else []
    errors += too_little(plan, faults.faults, findings.counts["accepted"])
    for error in errors:
        findings.error("the end", error)
    lines = report(findings, faults.counts, sent, f"{faults.faults} faults", time.monotonic() - started)
    return not findings.errors, [*lines, *logs]


def too_little(plan: Plan, faults: int, accepted: int) -> list[str]:
    """What of the plan was not done."""
    planned = plan.database_faults + plan.other_faults
    found = [] if faults >= planned else [f"{faults} faults were made, of {planned}"]
    return found + ([] if accepted >= plan.accepted else [f"{accepted} events were accepted, of {plan.accepted}"])


def _settings(plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        "store": {"max_backlog_events": plan.backlog},
        "apns": {"request_timeout_s": 1.0},
        "fcm": {"request_timeout_s": 1.0},
    }


async def _register_all(cluster: Cluster, users: Sequence[User]) -> None:
    waiting = iter([(user, device) for user in users for device in user.devices])

    async def register() -> None:
        client = Client(cluster.api_ports)
        for user, device in waiting:
            await user.register(client, device)
        client.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_REGISTERED_AT_ONCE):
            tasks.create_task(register())


async def _load_and_faults(
    plan: Plan,
    cluster: Cluster,
    bus: JetStreamContext,
    faults: Faults,
    bad: BadBackend,
    pace: Pace,
    sent: SentEvents,
    users: list[User],
    rng: random.Random,
) -> None:
    until, ends = time.time() + plan.load_s + plan.drain_s, time.monotonic() + plan.load_s
    loaded = False

    def finished() -> bool:
        return loaded

    def client() -> Client:
        ports = list(cluster.api_ports)
        rng.shuffle(ports)
        return Client(ports, cluster.producer_key)

    refused = BadProducer(client(), users, sent, random.Random(rng.random()))
    async with asyncio.TaskGroup() as others:
        others.create_task(refused.run(finished))
        others.create_task(faults.tokens.change(finished))
        refusing = others.create_task(bad.run(plan.load_s / 30))
        async with asyncio.TaskGroup() as tasks:
            for most, with_id in _OVER_HTTP:
                producer = Producer(client(), users, sent, pace, random.Random(rng.random()), until)
                tasks.create_task(producer.run(most, with_id=with_id))
            for most, with_id in _OVER_THE_BUS:
                backend = Backend(bus, users, sent, pace, random.Random(rng.random()), until)
                tasks.create_task(backend.run(most, with_id=with_id))
            of_database, of_others = faults.brief() if plan.brief else (faults.database, faults.others)
            for some, least in ((of_database, plan.database_faults), (of_others, plan.other_faults)):
                ending = time.monotonic() if plan.brief else ends
                tasks.create_task(faults.run(some, until=ending, at_least=least, pause_s=plan.pause_s))
        loaded = True
        refusing.cancel()


async def _wait_until_done(plan: Plan, cluster: Cluster, bus: JetStreamContext) -> list[str]:
    """Wait until the stream is read and the backlog is empty, by the count of an API node; then count the tables."""
    deadline = time.monotonic() + plan.drain_s
    counting = Client([node.private_port for node in cluster.api_nodes])
    while not (await cluster.bus_is_done(bus) and await backlog(counting) == 0):
        if time.monotonic() > deadline:
            return [await _what_is_left(plan, cluster, bus)]
        await asyncio.sleep(0.2)
    counting.close()
    if left := await _events_in_tables(cluster):
        return [f"a node counts the backlog as empty, and {left} events wait in the tables"]
    return []


async def _what_is_left(plan: Plan, cluster: Cluster, bus: JetStreamContext) -> str:
    counts = [f"{node.name} {await backlog(Client(node.private_port))}" for node in cluster.nodes]
    parts = [
        f"after {plan.drain_s:.0f} s the stream is {'' if await cluster.bus_is_done(bus) else 'not '}read",
        f"{await _events_in_tables(cluster)} events wait in the tables, and the nodes count {', '.join(counts)}",
    ]
    for node in cluster.nodes:
        ready = (await Client(node.private_port).call("GET", "/health/ready")).json()
        if ready["problems"] or ready.get("notes"):
            parts.append(f"{node.name}: {ready['problems']} {ready.get('notes', [])}")
    return "; ".join(parts)


async def _events_in_tables(cluster: Cluster) -> int:
    async with open_store(load(cluster.operator.config, environ={})) as store:
        return (await store.queue.backlog()).events


async def _refusals(bus: JetStreamContext, bad: BadBackend) -> list[str]:
    """Whether every message that must be refused is among the refusals."""
    found = 0
    for _ in range(50):
        with contextlib.suppress(Exception):
            found = (await bus.stream_info("REFUSED")).state.messages
            if found >= bad.published:
                return []
        await asyncio.sleep(0.2)
    return [f"{bad.published} messages were to be refused, and {found} refusals are in their stream"]


async def _stop_and_check(cluster: Cluster) -> list[str]:
    """Stop the nodes with SIGTERM, and run `tocsin store check`; returns what is wrong."""
    stopping = [asyncio.to_thread(node.terminate) for node in cluster.nodes]
    ended = await asyncio.gather(*stopping, return_exceptions=True)
    errors = [f"SIGTERM of {node.name}: {end}" for node, end in zip(cluster.nodes, ended, strict=True) if end != 0]
    checked = await asyncio.to_thread(cluster.operator.run_cli, "store", "check", timeout_s=60.0)
    if checked.returncode != 0:
        errors.append(f"tocsin store check: {checked.stdout} {checked.stderr}")
    await asyncio.to_thread(cluster.emulator.terminate)  # which writes the last lines of its journal
    return errors
