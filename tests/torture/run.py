"""One run: start everything, make it fail under load, wait until the backlog is empty, verify, report."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from tests.torture.afterwards import backlog, fetch_reports, report
from tests.torture.chaos import LEASE_S, Chaos
from tests.torture.disk import Disk
from tests.torture.http_client import Client
from tests.torture.operators import Operator
from tests.torture.processes import APPLICATION, Emulator, Server
from tests.torture.producers import BadProducer, Pace, Producer
from tests.torture.provider import Provider
from tests.torture.sent_events import SentEvents
from tests.torture.something_to_do import make_others, make_something_to_do
from tests.torture.users import User, make_users
from tests.torture.verification import Outages, verify
from tocsin.domain.events import UserId
from tocsin.providers.apns.credentials import ApnsCredential
from tocsin.providers.fcm.credentials import stored
from tocsin.settings import load
from tocsin.store.opening import open_store
from tocsin.store.ports import StoreError, WriteFailure
from tocsin.store.records import Role

PROJECT: Final = "tocsin-emulator"
_WAKE_EVERY_S: Final = 3.0
_LANES: Final = (f"apns:production:{APPLICATION}", f"apns:sandbox:{APPLICATION}", f"fcm:{PROJECT}")


class Plan(Struct, frozen=True):
    """The size of a run, and its time limits."""

    events: int
    users: int
    load_s: float
    kills: int
    drain_s: float
    """How long the backlog may take to become empty afterwards."""
    backlog: int
    """The server's bound: a flood is to reach it."""
    command_every_s: float
    """How long the operator waits between two commands, on average."""
    long_stops: int
    """How often the server is stopped for longer than its lease."""
    fetch_s: float
    """How long asking for every event may take."""
    every_command: bool
    """Whether each of the operator's commands has to have done something: there is time for many."""
    most_s: float
    """When the run is given up, whatever it does; ending the processes then takes up to half a minute more."""


QUICK: Final = Plan(
    events=6000,
    users=60,
    load_s=34,
    kills=6,
    drain_s=90,
    backlog=1500,
    command_every_s=4.0,
    long_stops=1,
    fetch_s=60,
    every_command=False,
    most_s=240,
)
LONG: Final = Plan(
    events=110_000,
    users=300,
    load_s=360,
    kills=54,
    drain_s=80,
    backlog=8000,
    command_every_s=2.0,
    long_stops=3,
    fetch_s=100,
    every_command=True,
    most_s=560,
)


async def prepare(server: Server, emulator: Emulator, owners: Iterable[str]) -> tuple[dict[str, str], str]:
    """Store credentials, a session for each owner and a producer's key, before the server is started.

    Returns the sessions by owner, and the key.
    """
    summary = emulator.summary
    async with open_store(load(server.config, environ={})) as store:
        key = ApnsCredential(Path(summary["apns_key"]).read_text(), summary["key_id"])
        await store.credentials.put(key.stored(APPLICATION, store.now_ms()))
        account = Path(summary["service_account"]).read_bytes()
        await store.credentials.put(stored(PROJECT, account, default=True, changed_ms=store.now_ms()))
        sessions = {owner: (await store.access.create_session(UserId(owner), None))[0] for owner in owners}
        secret, _ = await store.access.create_key(Role.PRODUCER, "torture", None)
    return sessions, secret


async def torture(plan: Plan, seed: int, directory: Path, say: Callable[[str], None]) -> tuple[bool, list[str]]:
    """Run `plan`, with its files in `directory`; returns whether every event is accounted for, and the report."""
    return await within(plan.most_s, say, lambda note: _run(plan, seed, directory, note))


async def within(
    most_s: float,
    say: Callable[[str], None],
    run: Callable[[Callable[[str], None]], Awaitable[tuple[bool, list[str]]]],
) -> tuple[bool, list[str]]:
    """Run it with what it is to note its steps by; where it takes longer, give it up, and say at which step."""
    steps = ["starting"]

    def note(line: str) -> None:
        steps.append(line)
        say(line)

    try:
        async with asyncio.timeout(most_s) as bound:
            return await run(note)
    except TimeoutError:
        if not bound.expired():
            raise
        return False, [f"FAILED: given up after {most_s:.0f} s; the last step was: {steps[-1]}"]


async def _run(plan: Plan, seed: int, directory: Path, say: Callable[[str], None]) -> tuple[bool, list[str]]:
    started = time.monotonic()
    rng = random.Random(seed)
    emulator = Emulator(directory / "emulator")
    with contextlib.ExitStack() as stack:
        stack.callback(emulator.close)
        await emulator.start()
        server = Server(directory / "server", emulator, _settings(plan))
        stack.callback(server.close)
        devices, others = make_users(plan.users, rng), make_others(rng)
        sessions, secret = await prepare(server, emulator, [*devices, *others])
        users = [User(owner, sessions[owner], own) for owner, own in devices.items()]
        for user in rng.sample(users, len(users) // 6):
            user.changes_tokens = True
        disk = Disk(directory, server)
        await server.start()
        waking = asyncio.create_task(keep_waking(server))
        stack.callback(waking.cancel)
        client = Client(server.port, secret)
        for user in users:
            for device in user.devices:
                await user.register(client, device)
        sent = SentEvents()
        refused = [User(owner, sessions[owner], own) for owner, own in others.items()]
        provider = Provider(emulator, rng)
        to_do = await make_something_to_do(refused, provider, server.port, server.private_port, secret, sent, rng)
        provider.close()
        say(f"{len(users)} users with {sum(len(user.devices) for user in users)} devices; the load begins")
        pace = Pace(plan.events, plan.load_s)
        chaos = Chaos(server, emulator, disk, users, pace, random.Random(rng.random()), say)
        operator = Operator(server, emulator, users, to_do, directory, chaos.counts, random.Random(rng.random()), say)
        await _load_and_chaos(plan, chaos, operator, pace, sent, users, server.port, secret, rng)
        say("the load has ended; one more kill, then waiting until the backlog is empty")
        await chaos.kill()
        await chaos.end()
        errors = await _wait_until_empty(plan, server, Client(server.private_port))
        await operator.check()
        errors += operator.errors
        say("the backlog is empty; asking for every event")
        waking.cancel()
        reports = await fetch_reports([server.port], secret, sent, plan.fetch_s, errors)
        client.close()
        say("stopping, and checking the store")
        errors += await _stop_and_check(server, emulator)
        every_device = [device for user in [*users, *refused] for device in user.devices]
        findings = verify(
            sent, every_device, emulator.accepted_pushes(), reports, Outages(chaos.killed_at, chaos.stops)
        )
    if chaos.kills < plan.kills or findings.counts["accepted"] < plan.events * 0.8:
        errors.append(f"too little was tried: {chaos.kills} kills, {findings.counts['accepted']} events")
    if plan.every_command and operator.never_done:
        errors.append(f"commands that never did anything: {', '.join(operator.never_done)}")
    for error in errors:
        findings.error("the end", error)
    lines = report(findings, chaos.counts, sent, f"{chaos.kills} kills", time.monotonic() - started)
    if not disk.shim:
        lines.insert(0, "No C compiler: the disk failed by a limit on file size alone.")
    if findings.errors:
        lines.append(server.last_lines())
    return not findings.errors, lines


def _settings(plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        "store": {"max_backlog_events": plan.backlog},
        "delivery": {"lease_s": LEASE_S},
        "apns": {"request_timeout_s": 1.0},
        "fcm": {"request_timeout_s": 1.0},
    }


async def _load_and_chaos(
    plan: Plan,
    chaos: Chaos,
    operator: Operator,
    pace: Pace,
    sent: SentEvents,
    users: list[User],
    port: int,
    secret: str,
    rng: random.Random,
) -> None:
    until = time.time() + plan.load_s + plan.drain_s
    loaded = False

    def finished() -> bool:
        return loaded

    def producer() -> Producer:
        return Producer(Client(port, secret), users, sent, pace, random.Random(rng.random()), until)

    bad = BadProducer(Client(port, secret), users, sent, random.Random(rng.random()))
    async with asyncio.TaskGroup() as others:
        others.create_task(bad.run(finished))
        others.create_task(chaos.tokens.change(finished))
        others.create_task(operator.run(finished, plan.command_every_s))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                chaos.run(until=time.monotonic() + plan.load_s, kills=plan.kills - 1, long_stops=plan.long_stops)
            )
            for most, with_id in ((1, True), (1, True), (1, False), (40, True), (200, True), (40, False)):
                tasks.create_task(producer().run(most, with_id=with_id))
        loaded = True


async def keep_waking(server: Server) -> None:
    """What failed often waits for minutes, and a rate pauses its lane for one: longer than the run has. As if somebody
    mended the credentials again and again, all of it is sent again at once."""
    while True:
        await asyncio.sleep(_WAKE_EVERY_S)
        with contextlib.suppress(StoreError, WriteFailure):
            async with open_store(load(server.config, environ={})) as store:
                await store.schedule.wake(_LANES)


async def _wait_until_empty(plan: Plan, server: Server, client: Client) -> list[str]:
    """Wait until the backlog is empty; then compare its count with that of a new process, which counts the file.

    `client` calls the private address. Returns what is wrong.
    """
    errors = []
    deadline = time.monotonic() + plan.drain_s
    while (left := await backlog(client)) != 0:
        if time.monotonic() > deadline:
            ready = await client.call("GET", "/health/ready")
            errors.append(f"{left} events still wait after {plan.drain_s:.0f} s: {ready.body.decode()[:600]}")
            break
        await asyncio.sleep(0.2)
    if status := await asyncio.to_thread(server.terminate):
        errors.append(f"SIGTERM: exit status {status}")
    await server.start()
    await asyncio.sleep(1.2)  # until the metric is from this process
    if (left := await backlog(client)) != 0 and not errors:
        errors.append(f"the backlog was counted as empty, and {left} events wait in the file")
    return errors


async def _stop_and_check(server: Server, emulator: Emulator) -> list[str]:
    """Stop both with SIGTERM, and run `tocsin store check`; returns what is wrong."""
    errors = []
    if status := await asyncio.to_thread(server.terminate):
        errors.append(f"SIGTERM: exit status {status}")
    checked = await asyncio.to_thread(server.run_cli, "store", "check", timeout_s=30.0)
    if checked.returncode != 0:
        errors.append(f"tocsin store check: {checked.stdout} {checked.stderr}")
    await asyncio.to_thread(emulator.terminate)  # which writes the last lines of its journal
    return errors
