"""Starts and stops all of it. What is started here is ended by its process id, or with the process that started it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from tests.cluster.database import ReplicatedDatabase
from tests.cluster.proxy import Proxy
from tests.support.nats import NatsServer, client_of, nats_cluster
from tests.torture.processes import Emulator, Server, free_ports
from tests.torture.run import prepare

STREAM, NORMAL, URGENT, REFUSED = "EVENTS", "events.normal", "events.urgent", "refused.events"
NODES: Final = (("api-1", "api"), ("api-2", "api"), ("delivery-1", "delivery"), ("delivery-2", "delivery"))


class Node(Server):
    """One tocsin process, and its way to the database."""

    def __init__(
        self, name: str, role: str, directory: Path, emulator: Emulator, settings: Mapping[str, Any], proxy: Proxy
    ) -> None:
        super().__init__(directory, emulator, settings)
        self.name = name
        self.role = role
        self.proxy = proxy

    @property
    def delivers(self) -> bool:
        return self.role == "delivery"


class Cluster:
    """All parts while they run."""

    def __init__(self, directory: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.directory = directory
        self._settings = settings
        self._master_key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.emulator = Emulator(directory / "emulator")
        self.database: ReplicatedDatabase
        self.nats: Sequence[NatsServer]
        self.nodes: list[Node] = []
        self.operator: Server
        """Never started: its configuration is for commands, past the proxies."""
        self.sessions: dict[str, str] = {}
        """By owner."""
        self.producer_key = ""

    @property
    def api_nodes(self) -> list[Node]:
        return [node for node in self.nodes if not node.delivers]

    @property
    def delivery_nodes(self) -> list[Node]:
        return [node for node in self.nodes if node.delivers]

    @property
    def api_ports(self) -> list[int]:
        return [node.port for node in self.api_nodes]

    async def open(self, owners: Iterable[str], life: AsyncExitStack) -> None:
        """Start everything, with a session for each owner; `life` ends it."""
        processes = life.enter_context(ExitStack())
        self.database = ReplicatedDatabase(processes)
        processes.callback(self.emulator.close)
        opening_nats = nats_cluster(self.directory / "nats")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.emulator.start())
            tasks.create_task(self.database.open())
            nats = tasks.create_task(life.enter_async_context(opening_nats))
        self.nats = nats.result()
        await self._make_streams()
        self.operator = Server(self.directory / "operator", self.emulator, self._configuration(self.database.ports))
        self.sessions, self.producer_key = await prepare(self.operator, self.emulator, owners)
        for name, role in NODES:
            proxy = await life.enter_async_context(_proxy(self.database.ports))
            settings = self._configuration(proxy.ports)
            node = Node(name, role, self.directory / name, self.emulator, settings, proxy)
            processes.callback(node.close)
            self.nodes.append(node)
        async with asyncio.TaskGroup() as tasks:
            for node in self.nodes:
                tasks.create_task(node.start())

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[JetStreamContext]:
        """JetStream as a backend reaches it: by whichever server is up."""
        async with client_of(*self.nats) as client:
            yield client.jetstream(timeout=2)

    async def bus_is_done(self, client: JetStreamContext) -> bool:
        """Whether every message has been acknowledged, which follows the commit of its events."""
        with contextlib.suppress(Exception):  # a server is down, or has no leader at present
            for consumer in ("tocsin", "tocsin-urgent"):
                info = await client.consumer_info(STREAM, consumer)
                if (info.num_pending or 0) + (info.num_ack_pending or 0):
                    return False
            return True
        return False

    async def stream_leader(self, client: JetStreamContext) -> NatsServer | None:
        with contextlib.suppress(Exception):
            info = await client.stream_info(STREAM)
            if info.cluster is not None and info.cluster.leader is not None:
                return self.nats[int(info.cluster.leader.removeprefix("n"))]
        return None

    async def _make_streams(self) -> None:
        async with client_of(*self.nats) as client:
            js = client.jetstream(timeout=10)
            replicas = len(self.nats)
            await _patiently(js, StreamConfig(STREAM, subjects=["events.>"], num_replicas=replicas))
            await _patiently(js, StreamConfig("REFUSED", subjects=["refused.>"], num_replicas=replicas))

    def _configuration(self, ports: Sequence[int]) -> dict[str, dict[str, Any]]:
        given: dict[str, dict[str, Any]] = {
            "store": {"url": self.database.url(ports)},
            "secrets": {"key": self._master_key},
            "sources.nats": {
                "servers": [server.url for server in self.nats],
                "stream": STREAM,
                "subjects": [NORMAL],
                "urgent_subjects": [URGENT],
                "refusals_subject": REFUSED,
                "batch": 200,
                "ack_wait_s": 10,
            },
        }
        for section, values in self._settings.items():
            given.setdefault(section, {}).update(values)
        return given


@asynccontextmanager
async def running_cluster(
    directory: Path, owners: Iterable[str], settings: Mapping[str, Mapping[str, Any]] | None = None
) -> AsyncIterator[Cluster]:
    """A cluster with its files in `directory`, until the block ends; a session for each of the owners."""
    async with AsyncExitStack() as life:
        cluster = Cluster(directory, settings or {})
        await cluster.open(owners, life)
        yield cluster


@asynccontextmanager
async def _proxy(targets: Sequence[int]) -> AsyncIterator[Proxy]:
    first = free_ports(len(targets))
    proxy = Proxy(dict(zip(range(first, first + len(targets)), targets, strict=True)))
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()


async def _patiently(js: JetStreamContext, config: StreamConfig) -> None:
    """Make a stream as soon as the servers have agreed on who leads them."""
    async with asyncio.timeout(60):
        while True:
            try:
                await js.add_stream(config)
                return
            except Exception:
                await asyncio.sleep(0.2)
