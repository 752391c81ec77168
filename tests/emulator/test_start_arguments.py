"""Clock, random numbers and network are arguments of `start`; without TLS no certificates are needed."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.emulator.h2_client import Answer, H2Client, Headers
from tests.emulator.harness import BODY, Harness, StartEmulator
from tests.emulator.memory_network import MemoryNetwork
from tests.emulator.test_fcm_checks import GOOD

from tocsin.emulator.faults import Rule
from tocsin.emulator.oauth_assertion import GRANT_TYPE
from tocsin.emulator.run import EmulatorOptions, start

NOW_S = 1_000_000_000
TOKEN = "ab" * 32


class FixedClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Simulation:
    """An emulator with a clock, a random generator and a network of the test's own."""

    def __init__(self, harness: Harness, network: MemoryNetwork, clock: FixedClock) -> None:
        self.harness = harness
        self.network = network
        self.clock = clock

    async def ask(self, endpoint: str, headers: Headers, body: bytes) -> Answer:
        port = urlsplit(self.harness.url(endpoint)).port
        assert port is not None
        client = await self.network.connect("localhost", port, None, H2Client)
        try:
            return await client.ask(headers, body)
        finally:
            client.close()

    async def push(self, endpoint: str, **changes: str | None) -> Answer:
        fields: dict[str, Any] = {"authorization": self.harness.bearer(iat=NOW_S), "apns_id": None} | changes
        return await self.ask(endpoint, self.harness.push(TOKEN, **fields), BODY)

    async def access_token(self) -> str:
        assertion = self.harness.assertion(iat=NOW_S, exp=NOW_S + 3600)
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/token")]
        body = f"grant_type={GRANT_TYPE}&assertion={assertion}".encode()
        return str((await self.ask("token_uri", headers, body)).json["access_token"])

    async def message(self, access_token: str) -> Answer:
        headers = await self.harness.message_headers(authorization=f"Bearer {access_token}")
        return await self.ask("fcm", headers, json.dumps({"message": GOOD}).encode())


async def _simulate(stack: AsyncExitStack, directory: Path, seed: int) -> Simulation:
    network, clock = MemoryNetwork(), FixedClock()
    options = EmulatorOptions(directory=directory, tls=False)
    emulator = await stack.enter_async_context(start(options, clock=clock, random=Random(seed), network=network))
    harness = Harness(emulator, stack)
    return Simulation(harness, network, clock)


async def _answers(directory: Path, seed: int) -> list[object]:
    """The answers to requests to all handlers, in all parts that the clock or random numbers determine."""
    async with AsyncExitStack() as stack:
        simulation = await _simulate(stack, directory, seed)
        access_token = await simulation.access_token()
        answers = [
            await simulation.push("production"),
            await simulation.message(access_token),
            await simulation.push("production", apns_priority="10"),
        ]
        simulation.harness.script(Rule(status=500, reason="InternalServerError", rate=0.5))
        answers += [await simulation.push("production") for _ in range(20)]
        simulation.harness.script()
        inbox = [(entry["id"], entry["time"]) for entry in simulation.harness.emulator.inbox.find()]
        return [access_token, [(answer.status, answer.headers, answer.body) for answer in answers], inbox]


@pytest.fixture
def directory(credentials: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(credentials, tmp_path / "emulator"))


async def test_the_same_clock_and_seed_give_the_same_answers(directory: Path) -> None:
    first, second, other = [await _answers(directory, seed) for seed in (1, 1, 2)]
    assert first == second
    assert first[0] != other[0], "the access token"
    for index in (0, 1):
        assert first[1][index] != other[1][index], "apns-id, message name"  # type: ignore[index]
    statuses = [status for status, *_ in first[1]]  # type: ignore[attr-defined]
    assert statuses[:3] == [200, 200, 400]
    assert {*statuses[3:]} == {200, 500}
    assert {time for _, time in first[2]} == {NOW_S}  # type: ignore[attr-defined]


async def test_tokens_expire_by_the_clock_of_the_test(directory: Path) -> None:
    async with AsyncExitStack() as stack:
        simulation = await _simulate(stack, directory, 1)
        access_token = await simulation.access_token()
        for elapsed_s, apns, fcm in [(0, 200, 200), (3599, 200, 200), (3601, 403, 401)]:
            simulation.clock.now_s = NOW_S + elapsed_s
            assert (await simulation.push("production")).status == apns
            assert (await simulation.message(access_token)).status == fcm


async def test_without_tls_both_http_versions_are_served(start_emulator: StartEmulator) -> None:
    harness = await start_emulator(tls=False)
    url = f"{harness.url('fcm')}/v1/projects/tocsin-emulator/messages:send"
    assert url.startswith("http://")
    form = {"grant_type": GRANT_TYPE, "assertion": harness.assertion()}
    async with httpx.AsyncClient() as client:
        granted = await client.post(harness.url("token_uri"), data=form)
        headers = {"authorization": f"Bearer {granted.json()['access_token']}"}
        answer = await client.post(url, headers=headers, json={"message": GOOD})
    assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")


async def test_without_tls_the_fault_tls_fail_closes_new_connections(start_emulator: StartEmulator) -> None:
    harness = await start_emulator(tls=False)
    harness.script(tls_fail=True)
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(harness.url("fcm"))
        harness.script()
        assert (await client.get(harness.url("fcm"))).status_code == 404


async def test_the_ports_are_released_when_the_emulator_has_ended(directory: Path) -> None:
    async with AsyncExitStack() as stack:
        network = (await _simulate(stack, directory, 1)).network
        assert len(network.listeners) == 5
        assert not any(listener.closed for listener in network.listeners)
    assert all(listener.released for listener in network.listeners)


async def test_a_client_that_reads_nothing_does_not_keep_the_emulator_from_ending(directory: Path) -> None:
    async with start(EmulatorOptions(directory=directory)) as emulator:
        port = urlsplit(str(emulator.summary["control"])).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /stats HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20_000)
        await asyncio.sleep(0.2)
        ending = asyncio.get_running_loop().time()
    # It waits for a second; without an end of its own, from Python 3.12 on for ever.
    assert asyncio.get_running_loop().time() - ending < 20
    writer.transport.abort()
