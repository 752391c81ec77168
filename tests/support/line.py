"""The whole line in one process, without the API: emulator over TLS, a real SQLite file, both providers, dispatcher."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from tocsin.delivery.dispatcher import Dispatcher, DispatcherOptions
from tocsin.delivery.lanes import LaneOptions
from tocsin.domain.devices import ApplicationId, Device
from tocsin.domain.events import MESSAGES, Event, EventId, UserId
from tocsin.domain.lanes import LaneStatus
from tocsin.emulator.faults import Latency, Rule, Script
from tocsin.emulator.run import Emulator, EmulatorOptions, start
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns import Apns, ApnsCredential, ApnsOptions
from tocsin.providers.fcm import Fcm, FcmCredential, FcmOptions
from tocsin.store.opening import Store, open_store
from tocsin.store.ports import Application, EventRecord, FcmProject, NewEvent, State
from tocsin.telemetry import Metrics

APPLICATION = "39JSDKGJ38.de.cospace.app"
PROJECT = "tocsin-emulator"
OWNER = "9aed5e94-3803-11e3-8475-0024e8f90cc0"
_numbers = itertools.count(1)


def apns_device(
    token: str | None = None, *, owner: str = OWNER, sandbox: bool = False, topic: str | None = None
) -> Device:
    token = token or f"{next(_numbers):064x}"
    return Device(owner, "apns", token, APPLICATION, sandbox, topic, int(time.time() * 1e6))


def fcm_device(token: str | None = None, *, owner: str = OWNER) -> Device:
    return Device(
        owner, "fcm", token or f"registration-token-{next(_numbers)}", None, False, None, int(time.time() * 1e6)
    )


def make_event(
    owner: str = OWNER, message: str = "fax_new", *, lifetime_s: float = 3600, id: str | None = None
) -> Event:
    assert message in MESSAGES
    now_ms = int(time.time() * 1000)
    body = f'{{"owner":"{owner}","message":"{message}","phone_from":"+49","phone_to":"+49"}}'
    made = EventId(id or str(UUID(int=next(_numbers) | time.time_ns() << 60)))
    return Event(made, UserId(owner), message, now_ms, now_ms + int(lifetime_s * 1000), body.encode())


class Line:
    def __init__(
        self, emulator: Emulator, store: Store, dispatcher: Dispatcher, apns: Apns, fcm: Fcm, metrics: Metrics
    ):
        self.emulator = emulator
        self.store = store
        self.dispatcher = dispatcher
        self.apns = apns
        self.fcm = fcm
        self.metrics = metrics

    def script(self, *rules: Rule, latency: Latency | None = None, seed: int | None = None) -> None:
        self.emulator.faults.replace(Script(rules=list(rules), latency=latency, seed=seed))

    async def register(self, *devices: Device) -> None:
        for device in devices:
            await self.store.registry.add(device, 100)

    async def hand_in(self, *events: Event) -> None:
        await self.store.queue.append([NewEvent(event) for event in events])

    async def record(self, event: Event) -> EventRecord:
        record = await self.store.queue.record(event.id)
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
        return next(lane for lane in self.dispatcher.lanes() if lane.name == name)

    def metric(self, lane: str, result: str, reason: str) -> float:
        labels = {"lane": lane, "result": result, "reason": reason}
        return self.metrics.registry.get_sample_value("tocsin_attempts_total", labels) or 0.0

    async def configure(self) -> None:
        """What the service does when the store's applications have changed."""
        changed = self.apns.configure(
            ApnsCredential(a.id, a.key_pem, a.key_id, a.certificate_pem)
            for a in await self.store.applications.applications()
        )
        await self.dispatcher.resume(f"apns:{env}:{id}" for id in changed for env in ("production", "sandbox"))
        projects = await self.store.applications.projects()
        changed = self.fcm.configure(FcmCredential(p.name, p.service_account, p.default) for p in projects)
        await self.dispatcher.resume(f"fcm:{name}" for name in changed)


@asynccontextmanager
async def running_line(
    directory: Path,
    *,
    lane: LaneOptions | None = None,
    pool: PoolOptions | None = None,
    emulator_options: dict[str, object] | None = None,
    lease_s: float = 120.0,
    drain_s: float = 1.0,
    dice: Callable[[], float] = random.random,
) -> AsyncIterator[Line]:
    options = EmulatorOptions(directory=directory / "emulator", **(emulator_options or {}))  # type: ignore[arg-type]
    async with (
        start(options) as emulator,
        open_store(
            directory / "tocsin.db", max_events=10**6, max_bytes=10**9, lease_s=lease_s, exclusive=True
        ) as store,
    ):
        urls = emulator.summary["apns"]
        assert isinstance(urls, dict)
        await store.applications.put_application(
            Application(ApplicationId(APPLICATION), emulator.files.apns_key.read_text(), emulator.files.key_id)
        )
        await store.applications.put_project(FcmProject(PROJECT, emulator.files.service_account.read_text()))
        metrics = Metrics()
        options_ = DispatcherOptions(lane or LaneOptions(4000, 8000), lease_s, min(35.0, lease_s / 2))
        dispatcher = Dispatcher(store.queue, store.registry, options_, metrics, dice=dice)
        pool = pool or PoolOptions()
        ca = emulator.files.ca
        apns = Apns(ApnsOptions(urls["production"], urls["sandbox"], ca, pool), dispatcher.report, dispatcher.withdrawn)
        priority = dict.fromkeys(MESSAGES, "HIGH")
        fcm = Fcm(FcmOptions(str(emulator.summary["fcm"]), ca, pool, priority), dispatcher.report, dispatcher.withdrawn)
        dispatcher.use({"apns": apns, "fcm": fcm})
        await store.queue.start()
        line = Line(emulator, store, dispatcher, apns, fcm, metrics)
        await line.configure()
        running = asyncio.create_task(dispatcher.run())
        looking_after = asyncio.create_task(_look_after(dispatcher))
        try:
            yield line
        finally:
            looking_after.cancel()
            await dispatcher.stop(drain_s)
            await apns.close()
            await fcm.close()
            await running


async def _look_after(dispatcher: Dispatcher) -> None:
    while True:
        await asyncio.sleep(0.2)
        await dispatcher.look_after()
