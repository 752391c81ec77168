"""One run: start everything, let it be broken under load, wait until it is quiet, account, report."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from tests.torture.accounts import Findings, account
from tests.torture.chaos import LEASE_S, Chaos
from tests.torture.disk import Disk
from tests.torture.ledger import Ledger
from tests.torture.people import Device, User, make_devices, new_owner
from tests.torture.processes import APPLICATION, Provider, Server
from tests.torture.producers import BadProducer, Pace, Producer
from tests.torture.wire import Client, NoAnswer
from tocsin.domain.devices import ApplicationId
from tocsin.domain.events import UserId
from tocsin.store.opening import open_store
from tocsin.store.ports import Application, FcmProject, Role

PROJECT: Final = "tocsin-emulator"
_ASK_AT_ONCE: Final = 16


class Plan(Struct, frozen=True):
    """How long, how much, how bad."""

    events: int
    users: int
    load_s: float
    kills: int
    drain_s: float
    """How long the backlog may take to become empty afterwards."""
    backlog: int
    """The server's bound: a flood is to hit it."""
    long_stops: int
    """How often the server is stopped for longer than its lease."""
    ask_s: float
    """How long asking for every event may take."""
    most_s: float
    """When the run is given up, whatever it does; ending what then runs takes up to half a minute more."""


QUICK: Final = Plan(
    events=6000, users=60, load_s=34, kills=6, drain_s=20, backlog=1500, long_stops=1, ask_s=20, most_s=75
)
LONG: Final = Plan(
    events=110_000, users=300, load_s=360, kills=54, drain_s=80, backlog=8000, long_stops=3, ask_s=100, most_s=560
)


async def enroll(server: Server, provider: Provider, owners: Iterable[str]) -> tuple[dict[str, str], str]:
    """Application, project, a session for each owner and a producer's key, while the server does not run yet."""
    summary = provider.summary
    async with open_store(server.database, max_events=10**6, max_bytes=10**9, lease_s=60) as store:
        key = Path(summary["apns_key"]).read_text()
        await store.applications.put_application(Application(ApplicationId(APPLICATION), key, summary["key_id"]))
        await store.applications.put_project(FcmProject(PROJECT, Path(summary["service_account"]).read_text()))
        sessions = {owner: (await store.access.create_session(UserId(owner), None))[0] for owner in owners}
        secret, _ = await store.access.create_key(Role.PRODUCER, "torture", None)
    return sessions, secret


async def torture(plan: Plan, seed: int, directory: Path, say: Callable[[str], None]) -> tuple[bool, list[str]]:
    """Run `plan`, with its files in `directory`; whether everything is accounted for, and the report."""
    doing = ["starting"]

    def note(line: str) -> None:
        doing.append(line)
        say(line)

    try:
        async with asyncio.timeout(plan.most_s) as bound:
            return await _run(plan, seed, directory, note)
    except TimeoutError:
        if not bound.expired():
            raise
        return False, [f"FAILED: given up after {plan.most_s:.0f} s, while it did this: {doing[-1]}"]


async def _run(plan: Plan, seed: int, directory: Path, say: Callable[[str], None]) -> tuple[bool, list[str]]:
    started = time.monotonic()
    dice = random.Random(seed)
    provider = Provider(directory / "emulator")
    with contextlib.ExitStack() as stack:
        stack.callback(provider.close)
        await provider.start()
        server = Server(directory / "server", provider, _settings(plan))
        stack.callback(server.close)
        devices = _people(plan, dice)
        sessions, secret = await enroll(server, provider, devices)
        users = [User(owner, sessions[owner], own) for owner, own in devices.items()]
        for user in dice.sample(users, len(users) // 6):
            user.restless = True
        disk = Disk(directory, server)
        await server.start()
        client = Client(server.port, secret)
        for user in users:
            for device in user.devices:
                await user.register(client, device)
        say(f"{len(users)} users with {sum(len(user.devices) for user in users)} devices; the load begins")
        ledger = Ledger()
        pace = Pace(plan.events, plan.load_s)
        chaos = Chaos(server, provider, disk, users, pace, random.Random(dice.random()), say)
        await _load_and_chaos(plan, chaos, pace, ledger, users, server.port, secret, dice)
        say("the load has ended; killed once more, and waiting until the backlog is empty")
        await chaos.kill()
        await chaos.calm()
        faults = await _quiet(plan, server, client)
        say("quiet; asking for every event")
        reports = await _ask(plan, server.port, secret, ledger, faults)
        client.close()
        say("asked; stopping, and checking the store")
        faults += await _end(server, provider)
        every_device = [device for user in users for device in user.devices]
        findings = account(ledger, every_device, provider.arrivals(), reports, chaos.deaths, chaos.stops)
    if chaos.kills < plan.kills or findings.counts["accepted"] < plan.events * 0.8:
        faults.append(f"too little was tried: {chaos.kills} kills, {findings.counts['accepted']} events")
    for fault in faults:
        findings.fault("the end", fault)
    lines = _report(findings, chaos, ledger, time.monotonic() - started)
    if not disk.shim:
        lines.insert(0, "No C compiler: the disk failed by a limit on file size alone.")
    if findings.faults:
        lines.append(server.last_lines())
    return not findings.faults, lines


def _settings(plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        "store": {"max_backlog_events": plan.backlog},
        "delivery": {"lease_s": LEASE_S},
        "apns": {"request_timeout_s": 1.0},
        "fcm": {"request_timeout_s": 1.0},
    }


def _people(plan: Plan, dice: random.Random) -> dict[str, list[Device]]:
    """Users with their devices; every tenth shares a phone with the one before."""
    people: dict[str, list[Device]] = {}
    before: list[Device] = []
    for number in range(plan.users):
        owner = new_owner(dice)
        own = make_devices(owner, dice)
        if number % 10 == 9:
            shared = before[0]
            own.append(Device(owner, shared.system, shared.token, shared.sandbox, shared.topic))
        people[owner] = before = own
    return people


async def _load_and_chaos(
    plan: Plan, chaos: Chaos, pace: Pace, ledger: Ledger, users: list[User], port: int, secret: str, dice: random.Random
) -> None:
    until = time.time() + plan.load_s + plan.drain_s
    loaded = False

    def finished() -> bool:
        return loaded

    def producer() -> Producer:
        return Producer(Client(port, secret), users, ledger, pace, random.Random(dice.random()), until)

    bad = BadProducer(Client(port, secret), users, ledger, random.Random(dice.random()))
    async with asyncio.TaskGroup() as beside:
        beside.create_task(bad.run(finished))
        beside.create_task(chaos.restless_users(finished))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                chaos.run(until=time.monotonic() + plan.load_s, kills=plan.kills - 1, long_stops=plan.long_stops)
            )
            for most, with_id in ((1, True), (1, True), (1, False), (40, True), (200, True), (40, False)):
                tasks.create_task(producer().run(most, with_id=with_id))
        loaded = True


async def _quiet(plan: Plan, server: Server, client: Client) -> list[str]:
    """Wait until nothing waits any more; then whether the count of it is right: a new process counts anew."""
    faults = []
    deadline = time.monotonic() + plan.drain_s
    while (left := await backlog(client)) != 0:
        if time.monotonic() > deadline:
            ready = await client.call("GET", "/health/ready")
            faults.append(f"{left} events still wait after {plan.drain_s:.0f} s: {ready.body.decode()[:600]}")
            break
        await asyncio.sleep(0.2)
    if status := await asyncio.to_thread(server.terminate):
        faults.append(f"SIGTERM: exit status {status}")
    await server.start()
    await asyncio.sleep(1.2)  # until the metric is from this process
    if (left := await backlog(client)) != 0 and not faults:
        faults.append(f"the backlog was counted as empty, and {left} events wait in the file")
    return faults


async def backlog(client: Client) -> int:
    """Accepted events that are not settled, as the server counts them."""
    while True:
        with contextlib.suppress(NoAnswer):
            answer = await client.call("GET", "/metrics")
            for line in answer.body.decode().splitlines():
                if line.startswith("tocsin_backlog_events "):
                    return int(float(line.split()[1]))
        await asyncio.sleep(0.1)


async def _ask(plan: Plan, port: int, secret: str, ledger: Ledger, faults: list[str]) -> dict[str, Any]:
    """`GET /api/events/{id}` for every event that was accepted; a fault where that takes too long."""
    ids = dict.fromkeys(event.event_id for event in ledger.events if event.accepted is not None)
    wanted = iter(ids)
    reports: dict[str, Any] = {}

    async def ask() -> None:
        client = Client(port, secret)
        for id in wanted:
            assert id is not None
            with contextlib.suppress(NoAnswer):  # then it has no report, which is a fault of its own
                answer = await client.call("GET", f"/api/events/{id}")
                if answer.status == 200:
                    reports[id] = msgspec.json.decode(answer.body)
        client.close()

    try:
        async with asyncio.timeout(plan.ask_s), asyncio.TaskGroup() as tasks:
            for _ in range(_ASK_AT_ONCE):
                tasks.create_task(ask())
    except TimeoutError:
        faults.append(f"{len(reports):,} of {len(ids):,} events could be asked for within {plan.ask_s:.0f} s")
    return reports


async def _end(server: Server, provider: Provider) -> list[str]:
    """Stop both in order, and let the store check itself."""
    faults = []
    if status := await asyncio.to_thread(server.terminate):
        faults.append(f"SIGTERM: exit status {status}")
    checked = await asyncio.to_thread(server.run_cli, "store", "check", timeout_s=30.0)
    if checked.returncode != 0:
        faults.append(f"tocsin store check: {checked.stdout} {checked.stderr}")
    await asyncio.to_thread(provider.terminate)  # which writes the last lines of its journal
    return faults


def _report(findings: Findings, chaos: Chaos, ledger: Ledger, took_s: float) -> list[str]:
    counts = findings.counts
    lines: list[str] = []
    for title, table in (
        ("What was done to it", chaos.counts),
        ("What the producers saw", ledger.answers),
        ("What became of it", counts),
    ):
        lines += [title, *(f"  {count:>9,}  {what}" for what, count in sorted(table.items())), ""]
    lines += [f"Latest push after a deletion was answered: {findings.latest_after_delete_s:.3f} s", ""]
    summary = (
        f"{counts['accepted']:,} events accepted, {chaos.kills} kills, {counts['deliveries owed']:,} deliveries owed, "
        f"{counts.get('duplicates', 0):,} duplicates, {took_s:.0f} s"
    )
    lines.append(f"{'FAILED' if findings.faults else 'All accounted for'}: {summary}")
    return lines + findings.told()
