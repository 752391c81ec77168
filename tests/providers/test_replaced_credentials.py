"""What waits for a connection when its credential is replaced is sent with the new one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.line import (
    APPLICATION,
    PROJECT,
    Line,
    apns_credential,
    apns_device,
    fcm_device,
    make_event,
    running_line,
)
from tests.support.relay import copy

from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Device
from tocsin.domain.events import Event
from tocsin.providers.apns.credentials import read_stored
from tocsin.store.records import Result

pytestmark = pytest.mark.slow


class Link:
    """Between tocsin and the emulator: the first connection hears nothing, those after it get through."""

    def __init__(self) -> None:
        self.emulator_port = 0
        self.connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.connections == 1:
            await reader.read()
        else:
            answers, to_emulator = await asyncio.open_connection("localhost", self.emulator_port)
            await asyncio.gather(copy(reader, to_emulator), copy(answers, writer))
        writer.close()

    async def wait_for_it(self, line: Line, device: Device) -> list[Event]:
        """Events for this device that wait for a connection, with the credentials that were put."""
        await line.configure()
        await line.register(device)
        events = [make_event() for _ in range(20)]
        await line.append(*events)
        async with asyncio.timeout(10):
            while not self.connections:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        return events


@asynccontextmanager
async def line_by_a_link(tmp_path: Path, provider: str) -> AsyncIterator[tuple[Line, Link]]:
    link = Link()
    server = await asyncio.start_server(link.connected, "localhost", 0)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with server, running_line(tmp_path, urls={provider: url}) as line:
        apns, fcm = line.emulator.summary["apns"], line.emulator.summary["fcm"]
        assert isinstance(apns, dict)
        link.emulator_port = int(str(apns["production"] if provider == "apns" else fcm).rsplit(":", 1)[1])
        yield line, link


@pytest.mark.parametrize("shared", [False, True])
async def test_an_apns_key_is_replaced(tmp_path: Path, shared: bool) -> None:
    """`shared`: another application uses the old one, and goes on to do so."""
    async with line_by_a_link(tmp_path, "apns") as (line, link):
        [right] = await line.store.credentials.of("apns")
        key_pem = read_stored(right).key_pem
        await line.store.credentials.put(apns_credential(key_pem, "WRONGKEYID"))
        if shared:
            other = apns_credential(key_pem, "WRONGKEYID", application=f"{APPLICATION}.other")
            await line.store.credentials.put(other)
        events = await link.wait_for_it(line, apns_device())
        await line.store.credentials.put(right)
        await line.configure()
        for record in await line.finished(*events, timeout_s=5):
            assert [attempt.result for attempt in record.attempts] == [Result.DELIVERED]


@pytest.mark.parametrize("removed", [False, True])
async def test_a_service_account_is_replaced_or_its_project_removed(tmp_path: Path, removed: bool) -> None:
    """`removed`: another project is the default one from then on."""
    async with line_by_a_link(tmp_path, "fcm") as (line, link):
        [right] = await line.store.credentials.of("fcm")
        content = line.emulator.files.service_account.read_bytes()
        wrong = json.dumps(json.loads(content) | {"project_id": "another-project"}).encode()
        old = "old" if removed else PROJECT
        await line.store.credentials.put(Credential("fcm", old, wrong, True, 0))
        events = await link.wait_for_it(line, fcm_device())
        await line.store.credentials.put(right)
        if removed:
            await line.store.credentials.remove("fcm", old)
        await line.configure()
        for record in await line.finished(*events, timeout_s=5):
            assert [(attempt.result, attempt.lane) for attempt in record.attempts] == [
                (Result.DELIVERED, f"fcm:{PROJECT}")
            ]


async def test_a_stop_while_what_was_taken_back_has_no_connection_yet_loses_nothing(tmp_path: Path) -> None:
    async with line_by_a_link(tmp_path, "apns") as (line, link):
        [right] = await line.store.credentials.of("apns")
        await line.store.credentials.put(apns_credential(read_stored(right).key_pem, "WRONGKEYID"))
        await link.wait_for_it(line, apns_device())
        link.connections = 0  # the next one hears nothing, either
        await line.store.credentials.put(right)
        await line.configure()
    with contextlib.closing(sqlite3.connect(tmp_path / "tocsin.db")) as driver:
        assert driver.execute("SELECT count(*) FROM parked").fetchone() == (20,)
