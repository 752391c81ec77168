"""The fuse of an account, when its tokens die on several nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.postgres.nodes import owners, until
from tests.support.line import APPLICATION, Line, apns_device, delivering, make_event
from tests.support.postgres import options
from tests.support.postgres_server import shared_server

from tocsin.domain.devices import Device, Registration
from tocsin.emulator.faults import Rule
from tocsin.emulator.run import EmulatorOptions, start
from tocsin.service.periodic import run_all
from tocsin.store.postgres.opening import open_store
from tocsin.store.postgres.places import LOGS, log_of
from tocsin.store.postgres.store import PostgresStore

LANE = f"apns:production:{APPLICATION}"
ENOUGH = 200
"""So many attempts the fuse wants within a minute."""


class Node:
    def __init__(self, store: PostgresStore, line: Line) -> None:
        self.store = store
        self.line = line

    @property
    def blown(self) -> bool:
        return any(lane.fuse_blown for lane in self.line.dispatcher.lanes.statuses())

    def own(self, devices: list[Device]) -> list[Device]:
        return [device for device in devices if log_of(device.owner) in self.store.ownership.held]


@pytest.fixture
async def two(database: str, tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes with all that they do now and then, and an emulator that both send to."""
    url = shared_server().url(database)
    async with AsyncExitStack() as life:
        emulator = await life.enter_async_context(start(EmulatorOptions(directory=tmp_path / "emulator")))
        nodes = []
        for name in ("one", "two"):
            store = await open_store(options(url, None, fresh_s=3.0, lease_s=120.0), server=True)
            life.push_async_callback(store.close)
            line = await life.enter_async_context(delivering(store, emulator))
            line.watchers._node = name
            duties = asyncio.create_task(run_all(line.watchers.duties))
            life.callback(duties.cancel)
            nodes.append(Node(store, line))
        await until(lambda: [len(node.store.ownership.held) for node in nodes] == [LOGS // 2, LOGS // 2])
        yield nodes[0], nodes[1]


async def send(line: Line, devices: list[Device]) -> None:
    events = [make_event(device.owner) for device in devices]
    await line.append(*events)
    await line.finished(*events, timeout_s=60)


async def test_tokens_that_die_on_two_nodes_blow_the_fuse_that_neither_would_have_blown_alone(
    two: tuple[Node, Node],
) -> None:
    one, other = two
    registry = one.store.registry
    devices = [apns_device(owner=owner) for owner in owners(500)]
    await registry.add_many([Registration(d.owner, d.provider, d.token, d.address) for d in devices], 100)
    dying = one.own(devices)[:130] + other.own(devices)[:130]
    assert all(len(node.own(dying)) < ENOUGH < len(dying) for node in two)
    one.line.script(Rule(status=410, reason="Unregistered", timestamp=int(time.time() * 1000) + 60_000))
    await send(one.line, dying)
    await until(lambda: one.blown and other.blown)
    later = [device for device in devices if device not in dying][:60]
    assert all(node.own(later) for node in two)
    await send(one.line, later)
    histories = [await registry.history(token=device.token) for device in later]
    assert all(history[0].quarantined for history in histories), "whichever node was told that it is dead"
    # The operator decides once, and every node's fuse is whole again.
    await registry.release_quarantine(APPLICATION, 100)
    await until(lambda: not one.blown and not other.blown)
    await asyncio.sleep(1.5)
    assert not any(node.blown for node in two), "what was counted before the decision does not blow it again"
