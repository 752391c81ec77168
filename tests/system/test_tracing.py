"""Traces of a real server, as a collector receives them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.line import APPLICATION, OWNER, apns_credential
from tests.support.otlp import Receiver, plain, receiving
from tocsin.cli.opening import in_store
from tocsin.emulator.faults import Rule, Script
from tocsin.emulator.run import Emulator, EmulatorOptions, start
from tocsin.settings import load
from tocsin.store.ports import Store
from tocsin.store.records import Role

TOKEN = "a6461732069737d42065496ea6461732069737d42065496ea6461732069737d4"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SECRET = "only for Anna"


class World:
    """A directory with a store, and what the server in it is to use."""

    def __init__(self, directory: Path, emulator: Emulator, receiver: Receiver) -> None:
        self.directory = directory
        self.receiver = receiver
        self.emulator = emulator
        apns: Any = emulator.summary["apns"]
        (directory / "tocsin.toml").write_text(
            f'[server]\nport = 0\n[store]\npath = "{directory}/tocsin.db"\n'
            f'[tracing]\nendpoint = "{receiver.endpoint}"\nratio = 0.0\n[apns]\nca_file = "{emulator.files.ca}"\n'
            f'production_url = "{apns["production"]}"\nsandbox_url = "{apns["sandbox"]}"\n'
        )
        self.keys: dict[str, str] = {}
        self.server: subprocess.Popen[bytes] | None = None
        self.url = ""

    def prepare(self) -> None:
        async def prepare(store: Store) -> None:
            files = self.emulator.files
            await store.credentials.put(apns_credential(files.apns_key.read_text(), files.key_id))
            for role in (Role.PRODUCER, Role.ADMIN):
                self.keys[role], _ = await store.access.create_key(role, "test", None)
            self.keys["sid"], _ = await store.access.create_session(OWNER, None)

        in_store(load(self.directory / "tocsin.toml", {}), prepare, create=True)

    async def start(self) -> None:
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        arguments = [sys.executable, "-m", "tocsin", "serve", "--config", "tocsin.toml", "--ready-file", "ready"]
        with (self.directory / "log").open("ab") as log:
            self.server = subprocess.Popen(arguments, cwd=self.directory, stdout=log, stderr=log, env=os.environ)
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert self.server.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        self.url = ready.read_text().strip()

    async def call(self, method: str, path: str, who: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[who]}", **options.pop("headers", {})}
        async with httpx.AsyncClient() as client:
            answer = await client.request(method, f"{self.url}{path}", headers=headers, **options)
        assert answer.status_code < 300, answer.text
        return answer

    async def send(self, traceparent: str | None) -> str:
        event = {"owner": OWNER, "message": "recording_new", "recording": OWNER, "phone": SECRET}
        headers = {} if traceparent is None else {"traceparent": traceparent}
        answer = await self.call("POST", "/api/events", Role.PRODUCER, json=event, headers=headers)
        return str(answer.json()["events"][0])

    async def spans(self, name: str, count: int = 1, **attributes: Any) -> list[Any]:
        return await asyncio.to_thread(self.receiver.wait_for, name, count, **attributes)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with start(EmulatorOptions(directory=tmp_path / "emulator")) as emulator:
        with receiving() as receiver:
            world = World(tmp_path, emulator, receiver)
            await asyncio.to_thread(world.prepare)
            await world.start()
            body = {"system": "apns", "action": "add", "device_token": TOKEN, "application_id": APPLICATION}
            await world.call("POST", "/api/push", "sid", json=body)
            try:
                yield world
            finally:
                assert world.server is not None
                world.server.terminate()
                assert await asyncio.to_thread(world.server.wait, 60) == 0, (tmp_path / "log").read_text()


async def test_an_event_is_traced_from_its_producer_to_its_settlement_also_over_a_crash(world: World) -> None:
    untraced = await world.send(None)
    event = await world.send(TRACEPARENT)
    (ingest,) = await world.spans("ingest", event_id=event)
    (settle,) = await world.spans("settle", event_id=event)
    (claim,) = await world.spans("claim", event_id=event)
    (send,) = await world.spans("send")
    for span in (ingest, claim, send, settle):
        assert span.trace_id.hex() == TRACE
    parents = [span.parent_span_id for span in (ingest, claim, send, settle)]
    assert parents == [bytes.fromhex(PARENT), ingest.span_id, claim.span_id, claim.span_id]
    assert {**plain(send)}.items() >= {"result": "delivered", "http.response.status_code": 200}.items()
    for span in (ingest, claim, send, settle):
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert claim.end_time_unix_nano <= send.end_time_unix_nano <= settle.end_time_unix_nano

    # What shows how long it took names the trace, in OpenMetrics alone.
    answer = await world.call("GET", "/metrics", Role.ADMIN, headers={"accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    shown = [sample.exemplar for sample in families["tocsin_delivery_seconds"].samples if sample.exemplar]
    assert [exemplar.labels for exemplar in shown] == [{"trace_id": TRACE}]
    assert "# {" not in (await world.call("GET", "/metrics", Role.ADMIN)).text

    # An event that was accepted before a crash is in the same trace after it.
    world.emulator.faults.replace(Script(rules=[Rule(status=503, reason="ServiceUnavailable")]))
    waiting = await world.send(TRACEPARENT)
    failed = await world.spans("send", result="retry")
    assert plain(failed[0])["reason"] == "ServiceUnavailable"
    assert world.server is not None
    world.server.kill()
    await asyncio.to_thread(world.server.wait)
    world.emulator.faults.replace(Script())
    await world.start()
    (begun,) = await world.spans("ingest", event_id=waiting)
    (arrived,) = [span for span in await world.spans("send", 2, result="delivered") if span.span_id != send.span_id]
    (again,) = [span for span in await world.spans("claim", event_id=waiting) if span.span_id == arrived.parent_span_id]
    assert (again.trace_id.hex(), again.parent_span_id) == (TRACE, begun.span_id)

    assert not [span for span in world.receiver.spans() if plain(span).get("event_id") == untraced]
    told = b"".join(world.receiver.raw)
    for secret in (TOKEN, OWNER, SECRET, *world.keys.values()):
        assert secret.encode() not in told


async def test_a_collector_that_fails_disturbs_no_delivery_and_no_stop(world: World) -> None:
    world.receiver.status = 503
    events = [await world.send(TRACEPARENT) for _ in range(20)]
    deadline = time.monotonic() + 30
    while len(world.emulator.inbox.find(token=TOKEN)) < len(events):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    for event in events:
        answer = await world.call("GET", f"/api/events/{event}", Role.PRODUCER)
        assert answer.json()["state"] in ("accepted", "delivering", "done")
    # The fixture stops the server, whose exit status is 0 within a minute.
