"""What happens to a running server, and must not end it, lose events or block it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.system.running_system import EVENTS, RunningSystem, eventually
from tests.torture.disk import KINDS, QUOTA
from tests.torture.http_client import Client
from tests.torture.processes import APPLICATION

FAX = "af729cc0-3251-11e2-81c1-0800200c9a66"


@pytest.fixture(autouse=True)
def _still_the_same_process(shared: RunningSystem) -> Iterator[None]:
    """No test may end the server, or make a restart necessary."""
    pid = shared.server.pid
    yield
    assert shared.server.running, shared.explain()
    assert shared.server.pid == pid


async def test_an_event_sent_by_another_process_is_delivered_within_a_second_or_so(shared: RunningSystem) -> None:
    user = await shared.user()
    sent = await asyncio.to_thread(
        shared.server.run_cli,
        *("send", "fax_new", "--owner", user.owner, "--fax", FAX, "--phone", "+49", "--page-count", "2"),
    )
    assert sent.returncode == 0, sent.stderr
    await eventually(lambda: FAX in shared.received(), 1.5, shared.explain)


async def test_a_wrong_key_pauses_its_lane_and_the_right_one_delivers_without_a_restart(
    shared: RunningSystem, tmp_path: Path
) -> None:
    user = await shared.user()
    key_id, right = shared.emulator.summary["key_id"], shared.emulator.summary["apns_key"]
    wrong = tmp_path / "wrong.p8"
    key = ec.generate_private_key(ec.SECP256R1())
    wrong.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    async def use(path: str) -> None:
        arguments = ("app", "add", APPLICATION, "--key", path, "--key-id", key_id)
        added = await asyncio.to_thread(shared.server.run_cli, *arguments)
        assert added.returncode == 0, added.stderr

    await use(str(wrong))
    await asyncio.sleep(1)  # it looks for changes twice a second
    events = await shared.send(user, 100)

    async def paused() -> bool:
        lane = f"lane apns:production:{APPLICATION} is paused: InvalidProviderToken"
        return lane in await shared.problems()

    await eventually(paused, 5, shared.explain)
    events += await shared.send(user, 100)
    assert not {event.marker for event in events} & shared.received().keys()
    await use(right)
    await shared.all_received(events, 5)
    assert await shared.problems() == []


async def test_half_sent_requests_and_idle_connections_do_not_stop_the_others(shared: RunningSystem) -> None:
    user = await shared.user()
    address = ("127.0.0.1", shared.server.port)
    with contextlib.ExitStack() as held:
        idle = [held.enter_context(socket.create_connection(address)) for _ in range(400)]
        half = [held.enter_context(socket.create_connection(address)) for _ in range(200)]
        for number, sock in enumerate(half):
            head = b"POST /api/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            body = f"authorization: Bearer {shared.secret}\r\ncontent-length: 1000\r\n\r\n{{".encode()
            sock.sendall(head if number % 2 else head + body)
        started = time.monotonic()
        events = await shared.send(user, 20)
        await shared.all_received(events, 2)
        assert time.monotonic() - started < 2
        # The server waits 2 seconds for the rest of a request; then it answers, or closes the connection.
        await eventually(lambda: all(_is_closed(sock) for sock in half), 6)
        assert len(idle) == 400
        await shared.all_received(await shared.send(user, 20), 2)


def _is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("kind", [QUOTA, *KINDS])
async def test_a_disk_that_fails_stops_acknowledgements_and_readiness_until_it_works_again(
    shared: RunningSystem, kind: str
) -> None:
    disk = shared.disk
    assert disk is not None
    if kind not in disk.kinds:
        pytest.skip(reason=f"without a C compiler the shim that makes the disk fail by {kind} cannot be built")
    user = await shared.user()
    events = shared.events(user, 10)
    disk.break_(kind)
    try:
        refused = [await shared.post(events) for _ in range(3)]
        assert [response.status for response in refused] == [503] * 3
        assert all("retry-after" in response.headers for response in refused)
        assert any("the store cannot write" in problem for problem in await shared.problems())
        assert (await shared.get("/health/live")).status == 200
    finally:
        disk.mend()

    async def ready() -> bool:
        return not await shared.problems()

    await eventually(ready, 5, shared.explain)
    # The same ids again: what was refused is not on record.
    assert (await shared.post(events)).status == 202
    more = await shared.send(user, 10)
    await shared.all_received([*events, *more], 5)
    assert all(len(shared.received()[event.marker]) == 1 for event in events)


async def test_only_at_the_private_address_everybody_is_told_everything(shared: RunningSystem) -> None:
    assert (await shared.get("/health/ready")).json() == {"ready": True}
    assert (await shared.health()).json().keys() == {"ready", "problems", "lanes"}
    assert (await shared.get("/metrics")).status == 403  # it has a producer's key
    private = Client(shared.server.private_port)
    assert b"tocsin_backlog_events" in (await private.call("GET", "/metrics")).body
    assert (await private.call("GET", "/health/live")).status == 200
    for method, path in (("POST", EVENTS), ("GET", "/api/push"), ("GET", "/api/admin/lanes"), ("GET", "/schema")):
        assert (await private.call(method, path, secret=shared.secret)).status == 404
    private.close()


async def test_memory_stays_bounded_while_producers_are_faster_than_the_provider(shared: RunningSystem) -> None:
    user = await shared.user()
    fields = {"message": "chat_message", "owner": user.owner, "chat": FAX, "uuid": FAX, "time": 1, "user": FAX}
    line = msgspec.json.encode(fields | {"user_name": "John Doe", "type": "text", "text": "x" * 2800})
    client = shared.client()

    async def flood(batches: int) -> float:
        for _ in range(batches):
            response = await client.call("POST", EVENTS, b"\n".join([line] * 2500), "application/x-ndjson")
            assert response.status == 202, response
        return _resident_mib(shared.server.pid)

    await shared.faults({"no_answer": True})  # the slowest possible
    try:
        before = await flood(24)  # until everything that is bounded is full
        grown = await flood(10) - before
    finally:
        await shared.faults()
        client.close()
    # About 20 MiB; it would be 90 MiB if a lane held everything in memory.
    assert grown < 55, f"grew by {grown:.0f} MiB for 25,000 events that wait"


def _resident_mib(pid: int) -> float:
    with contextlib.suppress(FileNotFoundError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    pytest.skip(reason="a process's memory is read from /proc, which this system does not have")
