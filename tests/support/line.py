"""Delivery as a whole in one process, without the API: the emulator over TLS, a real SQLite file, the dispatcher."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from tocsin.delivery.dispatcher import Dispatcher, DispatcherOptions
from tocsin.delivery.lane import LaneOptions
from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Address, Device, DeviceToken, Registration
from tocsin.domain.events import MESSAGES, Event, EventId, UserId
from tocsin.domain.routes import LaneStatus
from tocsin.emulator.faults import Latency, Rule, Script
from tocsin.emulator.run import Emulator, EmulatorOptions, start
from tocsin.http2.network import SystemNetwork
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns.address import ApnsAddress
from tocsin.providers.apns.channels import ApnsOptions
from tocsin.providers.apns.credentials import ApnsCredential
from tocsin.providers.apns.provider import Apns
from tocsin.providers.base import Context, Provider
from tocsin.providers.configured import Providers
from tocsin.providers.fcm.credentials import stored
from tocsin.providers.fcm.projects import FcmOptions
from tocsin.providers.fcm.provider import Fcm
from tocsin.service.watchers import Watchers
from tocsin.settings import Settings
from tocsin.store.ports import Store
from tocsin.store.records import EventRecord, State
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions
from tocsin.telemetry import Metrics

APPLICATION = "39JSDKGJ38.de.cospace.app"
PROJECT = "tocsin-emulator"
OWNER = "9aed5e94-3803-11e3-8475-0024e8f90cc0"
_numbers = itertools.count(1)


def apns_device(
    token: str | None = None,
    *,
    owner: str = OWNER,
    sandbox: bool = False,
    topic: str | None = None,
    application: str = APPLICATION,
) -> Device:
    """A device as it is when it was registered now; the store gives the registered one another generation."""
    return _device("apns", token or f"{next(_numbers):064x}", owner, ApnsAddress(application, sandbox, topic).text())


def fcm_device(token: str | None = None, *, owner: str = OWNER) -> Device:
    return _device("fcm", token or f"registration-token-{next(_numbers)}", owner, Address(""))


def _device(provider: str, token: str, owner: str, address: Address) -> Device:
    return Device(UserId(owner), provider, DeviceToken(token), address, int(time.time() * 1e6), next(_numbers))


def apns_credential(
    key_pem: str | None = None,
    key_id: str | None = None,
    *,
    certificate_pem: str | None = None,
    application: str = APPLICATION,
    changed_ms: int = 0,
) -> Credential:
    return ApnsCredential(key_pem, key_id, certificate_pem).stored(application, changed_ms)


def make_event(
    owner: str = OWNER, message: str = "fax_new", *, lifetime_s: float = 3600, id: str | None = None, padding: int = 0
) -> Event:
    """An event as it was accepted now; `padding` is that much text in a field that payloads leave out."""
    assert message in MESSAGES
    now_ms = int(time.time() * 1000)
    text = f',"text":"{"x" * padding}"' if padding else ""
    body = f'{{"owner":"{owner}","message":"{message}","phone_from":"+49","phone_to":"+49"{text}}}'
    made = EventId(id or str(UUID(int=next(_numbers) | time.time_ns() << 60)))
    return Event(made, UserId(owner), message, now_ms, now_ms + int(lifetime_s * 1000), body.encode())


class Line:
    def __init__(
        self,
        emulator: Emulator,
        store: Store,
        dispatcher: Dispatcher,
        providers: Providers,
        watchers: Watchers,
        metrics: Metrics,
    ):
        self.emulator = emulator
        self.store = store
        self.dispatcher = dispatcher
        self.providers = providers
        self.watchers = watchers
        self.metrics = metrics

    def script(self, *rules: Rule, latency: Latency | None = None, seed: int | None = None) -> None:
        self.emulator.faults.replace(Script(rules=list(rules), latency=latency, seed=seed))

    async def register(self, *devices: Device) -> None:
        for device in devices:
            registration = Registration(device.owner, device.provider, device.token, device.address)
            await self.store.registry.add(registration, 100)

    async def append(self, *events: Event) -> None:
        await self.store.queue.append(events)

    async def record(self, event: Event) -> EventRecord:
        record = await self.store.log.record(event.id)
        assert record is not None
        return record

    async def attempted(self, event: Event, attempts: int = 1, timeout_s: float = 10) -> EventRecord:
        """The record once it has so many attempts."""
        deadline = time.monotonic() + timeout_s
        while True:
            record = await self.record(event)
            if len(record.attempts) >= attempts:
                return record
            assert time.monotonic() < deadline, record
            await asyncio.sleep(0.01)

    async def finished(self, *events: Event, timeout_s: float = 10) -> list[EventRecord]:
        deadline = time.monotonic() + timeout_s
        while True:
            records = [await self.record(event) for event in events]
            if all(record.state in (State.DONE, State.DEAD) for record in records):
                return records
            assert time.monotonic() < deadline, [record for record in records if record.state < State.DONE]
            await asyncio.sleep(0.02)

    def lane(self, name: str) -> LaneStatus:
        return next(lane for lane in self.dispatcher.lanes.statuses() if lane.name == name)

    def metric(self, lane: str, result: str, reason: str) -> float:
        labels = {"lane": lane, "result": result, "reason": reason}
        return self.metrics.registry.get_sample_value("tocsin_attempts_total", labels) or 0.0

    async def configure(self) -> None:
        """What the service does when the store's credentials have changed."""
        await self.watchers.configure()


MakeMore = Callable[[Context], Sequence[Provider]]


@asynccontextmanager
async def running_line(
    directory: Path,
    *,
    lane: LaneOptions | None = None,
    pool: PoolOptions | None = None,
    emulator_options: dict[str, object] | None = None,
    lease_s: float = 120.0,
    drain_s: float = 1.0,
    random_number: Callable[[], float] = random.random,
    more: MakeMore | None = None,
    urls: Mapping[str, str] = MappingProxyType({}),
    wall_clock: Callable[[], float] = time.time,
) -> AsyncIterator[Line]:
    """`more` makes further providers beside the two that tocsin ships; `urls` says, by provider, who else is asked in
    place of the emulator (for APNs: in production); `wall_clock` is the store's."""
    options = EmulatorOptions(directory=directory / "emulator", **(emulator_options or {}))  # type: ignore[arg-type]
    async with start(options) as emulator:
        bounds = SqliteOptions(max_events=10**6, max_bytes=10**9, lease_s=lease_s, wall_clock=wall_clock)
        store = await open_store(directory / "tocsin.db", bounds, server=True)
        try:
            async with delivering(store, emulator, lane, pool, lease_s, drain_s, random_number, more, urls) as line:
                yield line
        finally:
            await store.close()


@asynccontextmanager
async def delivering(
    store: Store,
    emulator: Emulator,
    lane: LaneOptions | None = None,
    pool: PoolOptions | None = None,
    lease_s: float = 120.0,
    drain_s: float = 1.0,
    random_number: Callable[[], float] = random.random,
    more: MakeMore | None = None,
    other: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Line]:
    """Delivery from a store that is open and not started yet; several of one database are several nodes."""
    apns, ca = emulator.summary["apns"], emulator.files.ca
    assert isinstance(apns, dict)
    production, fcm = other.get("apns", apns["production"]), other.get("fcm", str(emulator.summary["fcm"]))
    await store.credentials.put(apns_credential(emulator.files.apns_key.read_text(), emulator.files.key_id))
    await store.credentials.put(
        stored(PROJECT, emulator.files.service_account.read_bytes(), default=True, changed_ms=0)
    )
    metrics = Metrics()
    pool = pool or PoolOptions()
    options = DispatcherOptions(lane or LaneOptions(4000, 8000), marks_kept_s=2 * lease_s)
    dispatcher = Dispatcher(store, options, metrics, random=random_number)
    context = Context(dispatcher, SystemNetwork(), time.time, random.Random())
    priority = dict.fromkeys(MESSAGES, "HIGH")
    providers = Providers(
        [
            Fcm(FcmOptions(fcm, ca, pool, priority, ("localhost",)), context),
            Apns(ApnsOptions(production, apns["sandbox"], ca, pool), context),
            *(more(context) if more is not None else ()),
        ]
    )
    dispatcher.use(providers, min(35.0, lease_s / 2))
    watchers = Watchers(Settings(), store, providers, dispatcher, metrics, list)
    await store.start()
    line = Line(emulator, store, dispatcher, providers, watchers, metrics)
    await line.configure()
    running = asyncio.create_task(dispatcher.run())
    looking_after = asyncio.create_task(_look_after(dispatcher))
    try:
        yield line
    finally:
        looking_after.cancel()
        await dispatcher.stop(drain_s)
        for provider in providers.values():
            await provider.close()
        await running
    # Whatever has happened: what lanes have held and streams that lanes have had were given back.
    assert [lane.name for lane in dispatcher.lanes if lane.in_flight or lane.share.held_bytes] == []
    pools = [pool for provider in providers.values() for pool in provider.pools()]
    assert [pool.origin for pool in pools if pool._pending._groups] == []


async def _look_after(dispatcher: Dispatcher) -> None:
    while True:
        await asyncio.sleep(0.2)
        await dispatcher.look_after()
