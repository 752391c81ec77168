"""`tocsin serve` and the commands on PostgreSQL, as processes that are killed."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.sources.bus import bus_on, nats_settings
from tests.support.nats import nats_server
from tests.support.pgbouncer import PgBouncer, needs_pgbouncer
from tests.support.postgres import MASTER_KEY, drop_database, fetch, new_database
from tests.support.postgres_server import PostgresServer, remove, shared_server
from tests.system.running_system import RunningSystem, eventually
from tests.system.test_metrics import total
from tests.system.test_operators import LANE, Operator
from tests.torture.processes import Server, free_ports


@pytest.fixture
async def database() -> AsyncIterator[str]:
    name = await new_database()
    yield shared_server().url(name)
    await drop_database(name)


def on(database: str) -> dict[str, dict[str, str]]:
    return {"store": {"url": database}, "secrets": {"key": MASTER_KEY}}


@pytest.fixture
async def system(tmp_path: Path, database: str) -> AsyncIterator[RunningSystem]:
    system = RunningSystem(tmp_path, on(database))
    try:
        yield await system.open()
    finally:
        system.close()


async def test_a_server_that_is_killed_with_waiting_events_loses_none(system: RunningSystem) -> None:
    user = await system.user()
    first = await system.send(user, 20)
    await system.all_received(first, 60)
    # Nothing is answered: what is sent now waits in the server that is killed.
    await system.faults({"no_answer": True})
    waiting = await system.send(user, 50)
    await asyncio.sleep(0.5)
    system.server.kill()
    await system.faults()
    await system.server.start()
    await system.all_received(waiting, 90)
    assert await system.problems() == []


async def test_of_two_servers_on_one_database_one_is_killed_and_everything_arrives(
    system: RunningSystem, database: str, tmp_path: Path
) -> None:
    other = Server(tmp_path / "other", system.emulator, on(database))
    system._processes.append(other)
    await other.start()
    users = [await system.user() for _ in range(3)]
    events = []
    for round in range(30):
        for user in users:
            events += await system.send(user, 3)
        if round == 15:
            other.kill()
    await system.all_received(events, 120)


async def test_an_api_server_accepts_what_another_process_delivers(
    system: RunningSystem, database: str, tmp_path: Path
) -> None:
    api = Server(tmp_path / "api", system.emulator, on(database))
    system._processes.append(api)
    api.role = "api"
    user = await system.user()
    operator = await asyncio.to_thread(Operator, system)
    await api.start()
    delivering, system.server = system.server, api
    # At once: all of it may have been sent before this process looks at the other one for the first time.
    await system.all_received(await system.send(user, 30), 60)
    # Whoever asks the one that delivers nothing is told what the other one does.
    figures = await operator.get("/figures")

    def told_last() -> str:
        return f"told last: {figures}\n{delivering.last_lines()}\n{api.last_lines()}"

    async def told() -> bool:
        nonlocal figures
        figures = await operator.get("/figures")
        return bool(figures["latency_ms"]["samples"] and any(moment["sent"] for moment in figures["history"]))

    await eventually(told, 20, told_last)
    assert len(figures["of_nodes"]) == 2
    assert figures["totals"]["sent"] >= figures["totals"]["accepted"] == 30
    assert [lane["name"] for lane in await operator.get("/lanes")] == [LANE]
    assert sorted(node["delivers"] for node in await operator.get("/nodes")) == [False, True]
    await system.faults({"status": 503})
    late = await system.send(user, 1)

    async def behind() -> bool:
        nonlocal figures
        figures = await operator.get("/figures")
        return (figures["backlog"]["oldest_s"] or 0) > 0

    await eventually(behind, 20, told_last)
    await system.faults()
    await system.all_received(late, 60)
    delivering.kill()
    waiting = await system.send(user, 10)
    await asyncio.sleep(1.0)
    assert not {event.marker for event in waiting} & system.received().keys()
    delivering.role = "delivery"
    await delivering.start()
    await system.all_received(waiting, 60)
    system.server = delivering
    assert await system.problems() == []
    assert (await system.post(system.events(user, 1))).status == 404


async def test_a_token_deleted_through_one_server_gets_nothing_more_from_another(
    system: RunningSystem, database: str, tmp_path: Path
) -> None:
    api = Server(tmp_path / "api", system.emulator, on(database))
    system._processes.append(api)
    api.role = "api"
    await api.start()
    delivering, system.server = system.server, api
    user = await system.user()
    await system.all_received(await system.send(user, 5), 60)
    client = system.client()
    await user.delete(client, user.devices[0])
    client.close()
    await asyncio.sleep(1.0)
    later = await system.send(user, 5)
    await asyncio.sleep(1.5)
    assert not {event.marker for event in later} & system.received().keys()
    assert delivering.running


async def test_a_server_that_was_stopped_for_a_while_sends_nothing_more_for_a_token_deleted_meanwhile(
    system: RunningSystem, database: str, tmp_path: Path
) -> None:
    stopped, other = system.server, Server(tmp_path / "other", system.emulator, on(database))
    system._processes.append(other)
    await other.start()
    users = [await system.user() for _ in range(4)]
    await system.all_received([event for user in users for event in await system.send(user, 2)], 60)
    # Each of the two has its share of the logs by now. What one of them has claimed waits when it is stopped.
    await asyncio.sleep(4.0)
    await system.faults({"status": 503})
    waiting = [event for user in users for event in await system.send(user, 3)]
    await asyncio.sleep(0.5)
    stopped.send(signal.SIGSTOP)
    system.server = other
    client = system.client()
    await users[0].delete(client, users[0].devices[0])
    client.close()
    await system.faults()
    kept = [event for event in waiting if event.owner != users[0].owner]
    await system.all_received(kept, 90)
    stopped.send(signal.SIGCONT)
    later = [event for user in users[1:] for event in await system.send(user, 2)]
    await system.all_received(later, 60)
    await asyncio.sleep(2.0)
    gone = {event.marker for event in waiting if event.owner == users[0].owner}
    assert not gone & system.received().keys()
    assert all(len(system.received()[event.marker]) == 1 for event in [*kept, *later])
    assert stopped.running


@pytest.mark.slow
async def test_a_server_that_was_stopped_for_a_minute_settles_and_sends_nothing_of_what_was_taken_over(
    tmp_path: Path, database: str
) -> None:
    """Its pushes wait in its memory for a stream when it is stopped. The answer that makes room for the next comes
    meanwhile: it is the first that it finds when it goes on."""
    stopped_s, answered_after_s = 61.0, 50.0
    slow = {"apns": {"max_connections": 1, "request_timeout_s": 300}, "delivery": {"lease_s": 700}}
    system = RunningSystem(tmp_path, on(database) | slow)
    try:
        await system.open(users=6)
        stopped, (first, gone, *staying) = system.server, [await system.user() for _ in range(6)]
        # While one push waits for its answer, no other may be on the wire beside it.
        token = first.devices[0].token
        await system.faults({"match": {"token": token}, "delay_s": answered_after_s, "max_concurrent_streams": 1})
        (on_the_wire,) = await system.send(first, 1)
        await eventually(lambda: in_flight(system, 1), 30, system.explain)
        await asyncio.sleep(0.5)
        deleted = await system.send(gone, 5)
        kept = [event for user in staying for event in await system.send(user, 5)]
        await eventually(lambda: in_flight(system, 1 + len(kept) + len(deleted)), 30, system.explain)
        # It takes what is free: what is in the other's memory stays with that one as long as it lives.
        other = Server(tmp_path / "other", system.emulator, on(database))
        system._processes.append(other)
        await other.start()
        await asyncio.sleep(3.0)
        assert not {event.marker for event in kept + deleted} & system.received().keys()
        stopped.send(signal.SIGSTOP)
        stopped_at = time.monotonic()
        system.server = other
        client = system.client()
        await gone.delete(client, gone.devices[0])
        client.close()
        await system.faults()
        await system.all_received([on_the_wire, *kept], 60)
        await asyncio.sleep(max(0.0, stopped_at + stopped_s - time.monotonic()))
        settled = await fetch(database, _SETTLED)
        assert len(settled) == 1 + len(kept) + len(deleted)
        stopped.send(signal.SIGCONT)
        later = [event for user in staying for event in await system.send(user, 2)]
        await system.all_received(later, 60)
        await asyncio.sleep(2.0)
        assert not {event.marker for event in deleted} & system.received().keys()
        assert [len(system.received()[event.marker]) for event in kept + later] == [1] * len(kept + later)
        assert len(system.received()[on_the_wire.marker]) == 2, "a takeover is a cause of duplicates"
        assert (await fetch(database, _SETTLED))[: len(settled)] == settled, "it has settled what was taken over"
        assert stopped.running
        system.server = stopped
        assert await system.problems() == []
    finally:
        system.close()


_SETTLED = "SELECT stream, xid, seq, unit, attempts FROM settlement ORDER BY number"


async def in_flight(system: RunningSystem, count: int) -> bool:
    """Whether so many deliveries are on the wire, or wait for a stream."""
    return await total(system, "tocsin_in_flight") + await total(system, "tocsin_waiting") == count


async def test_commands_work_beside_a_server_and_without_one(system: RunningSystem, database: str) -> None:
    user = await system.user()
    (event,) = await system.send(user, 1)
    await system.all_received([event], 60)

    def command(*arguments: str) -> str:
        done = system.server.run_cli(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shown() -> bool:
        return json.loads(command("event", "show", str(event.event_id), "--json"))["state"] == "done"

    await eventually(shown, 30, system.explain)
    assert len(json.loads(command("device", "list", "--owner", user.owner, "--json"))) == 1
    command("key", "create", "producer", "--name", "other")
    command("app", "list")
    command("fcm", "list")
    command("deadletter", "list")
    command("store", "check")
    command("store", "rekey")
    refused = system.server.run_cli("store", "backup", "copy.db")
    assert refused.returncode != 0
    assert "`pg_basebackup` copies it" in refused.stderr
    assert system.server.terminate() == 0
    command("session", "list", "--owner", user.owner)
    fax = ["--fax", "af729cc0-3251-11e2-81c1-0800200c9a66", "--phone", "+492215587412", "--page-count", "2"]
    command("send", "fax_new", "--owner", user.owner, *fax)
    status = system.server.run_cli("status", "--json")
    assert (status.returncode, json.loads(status.stdout)["waiting"]["events"]) == (1, 1)
    assert json.loads(status.stdout)["waiting"]["oldest"] is not None
    command("store", "check")


async def test_while_its_database_is_gone_a_server_answers_503_and_the_bus_keeps_what_is_published_until_it_is_back(
    tmp_path: Path,
) -> None:
    # A process that is killed loses nothing of what it has written, synced or not.
    # On a port that the system gives to nobody else while it is down.
    own = PostgresServer({"fsync": "off"}, port=free_ports(1)).start()
    async with nats_server(tmp_path / "nats") as nats, bus_on(nats) as bus:
        source = nats_settings(nats).model_dump(mode="json", exclude_none=True)
        system = RunningSystem(tmp_path, on(own.url()) | {"sources.nats": source})
        try:
            await system.open()
            user = await system.user()
            await system.all_received(await system.send(user, 5), 60)
            # The client waits for 15 s, which is less than `server.request_timeout_s`.
            own.send(signal.SIGSTOP)
            refused = await system.post(system.events(user, 1))
            assert refused.status == 503, refused
            own.kill()
            refused = await system.post(system.events(user, 1))
            assert refused.status == 503, refused
            assert await system.problems()
            published = system.events(user, 20)
            for event in published:
                await bus.publish(event.body)
            own.start()
            await system.all_received(published, 90)
            await eventually(lambda: _is_ready(system), 60, system.explain)
            await eventually(bus.is_done, 60, system.explain)
            await system.all_received(await system.send(user, 5), 60)
        finally:
            system.close()
            remove(own)


@needs_pgbouncer
async def test_with_pgbouncer_between_a_server_answers_503_while_it_is_down_and_goes_on_when_it_is_back(
    tmp_path: Path, database: str
) -> None:
    pgbouncer = PgBouncer(shared_server()).start()
    through = {"store": {"url": pgbouncer.url(database.rpartition("/")[2]), "session_url": database}}
    system = RunningSystem(tmp_path, on(database) | through)
    try:
        await system.open()
        user = await system.user()
        await system.all_received(await system.send(user, 20), 60)
        for command in (("device", "list", "--owner", user.owner), ("app", "list"), ("store", "check")):
            done = system.server.run_cli(*command)
            assert done.returncode == 0, done.stderr
        pgbouncer.kill()
        refused = await system.post(system.events(user, 1))
        assert refused.status == 503, refused
        assert await system.problems()
        pgbouncer.start()
        await system.all_received(await system.send(user, 20), 60)
        assert await system.problems() == []
    finally:
        system.close()
        pgbouncer.remove()


async def _is_ready(system: RunningSystem) -> bool:
    return not await system.problems()
