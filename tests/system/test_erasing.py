"""`tocsin user erase` beside a server that is at work for this user and for another."""

from __future__ import annotations

import json

from tests.system.running_system import RunningSystem, eventually
from tests.torture.http_client import Client


async def test_a_user_is_erased_while_the_server_works_and_nothing_more_is_sent_for_that_user(
    system: RunningSystem,
) -> None:
    user, other = await system.user(), await system.user("fcm")
    await system.all_received(await system.send(user, 20))
    await system.faults({"match": {"provider": "apns"}, "status": 503})
    waiting = await system.send(user, 50)
    refused = system.server.run_cli("user", "erase", user.owner)
    assert (refused.returncode, "not confirmed" in refused.stderr) == (2, True)
    done = system.server.run_cli("user", "erase", user.owner, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    erased = json.loads(done.stdout)
    assert (erased["devices"], erased["sessions"], erased["events"], erased["left"]) == (1, 1, 70, [])
    assert erased["waiting"] > 0
    await system.faults()
    await system.all_received(await system.send(other, 20))
    await eventually(lambda: user.owner.encode() not in _files_of(system), 20, system.explain)
    assert {event.marker for event in waiting}.isdisjoint(system.received())
    await eventually(lambda: _nothing_waits(system), 20, system.explain)
    system.server.kill()
    await system.server.start()
    assert system.server.run_cli("store", "check").returncode == 0
    again = json.loads(system.server.run_cli("user", "erase", user.owner, "--yes", "--json").stdout)
    assert (again["devices"], again["events"], again["left"]) == (0, 0, [])


async def _nothing_waits(system: RunningSystem) -> bool:
    """Whether nothing waits, as the server counts it."""
    client = Client(system.server.port, system.server.run_cli("key", "create", "admin").stdout.strip())
    metrics = (await client.call("GET", "/metrics")).body
    client.close()
    return b"\ntocsin_backlog_events 0.0\n" in metrics


def _files_of(system: RunningSystem) -> bytes:
    """The store, its log, and the server's log."""
    files = (file for file in system.server.directory.iterdir() if file.suffix in (".db", ".db-wal", ".log"))
    return b"".join(file.read_bytes() for file in files)
