"""Wires everything together: the one place that knows every part."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Final

import structlog

from tocsin.api.app import create_app
from tocsin.api.control import CredentialRules
from tocsin.api.server import ApiServer
from tocsin.api.unavailable import Unavailable
from tocsin.delivery.dispatcher import Dispatcher, DispatcherOptions
from tocsin.delivery.lanes import LaneOptions
from tocsin.domain.events import MESSAGES
from tocsin.domain.lanes import LaneState, LaneStatus, apns_lane, fcm_lane
from tocsin.http2.pool import PoolOptions
from tocsin.providers.apns import Apns, ApnsCredential, ApnsOptions
from tocsin.providers.check import CheckResult, check_apns, check_fcm
from tocsin.providers.credentials import (
    CredentialError,
    certificate_expiry,
    read_certificate,
    read_key,
    read_service_account,
)
from tocsin.providers.fcm import Fcm, FcmCredential, FcmOptions
from tocsin.settings import Http2, Settings
from tocsin.store.configured import open_store
from tocsin.store.opening import Store, StoreError, StoreFault, take_over
from tocsin.store.ports import Application, FcmProject, StoreUnavailable
from tocsin.telemetry import Metrics, configure_logging

__all__ = [
    "CheckResult",
    "ServiceError",
    "Store",
    "StoreError",
    "check_application",
    "check_project",
    "open_store",
    "serve",
]

log = structlog.get_logger(__name__)

_NOTICE_EVERY_S: Final = 0.5
_LOOK_AFTER_EVERY_S: Final = 1.0
_PRUNE_EVERY_S: Final = 10.0
_PRUNE_AGAIN_S: Final = 0.2
_CERTIFICATES_EVERY_S: Final = 24 * 3600.0
_WARN_CERTIFICATE_S: Final = 30 * 24 * 3600
_OPEN_AGAIN_S: Final = 1.0
_LATEST_OPEN_AGAIN_S: Final = 10.0
_GC_THRESHOLD: Final = 100_000
# The writer thread asks for the GIL a few times a commit, and waits one interval each time while the loop is busy.
_SWITCH_INTERVAL_S: Final = 0.0005


class ServiceError(Exception):
    """The service cannot start; the message names the reason and the remedy."""


def pool_options(section: Http2) -> PoolOptions:
    return PoolOptions(
        max_connections=section.max_connections,
        request_timeout_s=section.request_timeout_s,
        connect_timeout_s=section.connect_timeout_s,
        ping_after_s=section.ping_after_s,
        ping_timeout_s=section.ping_timeout_s,
        proxy=section.proxy,
    )


def apns_options(settings: Settings) -> ApnsOptions:
    apns = settings.apns
    return ApnsOptions(apns.production_url, apns.sandbox_url, apns.ca_file, pool_options(apns))


def fcm_options(settings: Settings) -> FcmOptions:
    priority = {message: settings.delivery.priority(message) for message in MESSAGES}
    return FcmOptions(settings.fcm.url, settings.fcm.ca_file, pool_options(settings.fcm), priority)


class Service:
    """A running tocsin: the line, the API beside it, and what looks after both."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.metrics = Metrics()
        delivery = settings.delivery
        self.dispatcher = Dispatcher(
            store.queue,
            store.registry,
            DispatcherOptions(
                LaneOptions(delivery.lane_in_flight, delivery.lane_waiting),
                delivery.lease_s,
                max(settings.apns.request_timeout_s, settings.fcm.request_timeout_s) + 5.0,
            ),
            self.metrics,
        )
        self.apns = Apns(apns_options(settings), self.dispatcher.report, self.dispatcher.withdrawn)
        self.fcm = Fcm(fcm_options(settings), self.dispatcher.report, self.dispatcher.withdrawn)
        self.dispatcher.use({"apns": self.apns, "fcm": self.fcm})
        self._stopping = False
        self._to_resume: set[str] = set()
        """Lanes whose credential was replaced, until they have been told."""

    # -- what the API asks (api.control.DeliveryControl) ---------------------------------------------------------------

    def cancel(self, owner: str, system: str, token: str) -> None:
        self.dispatcher.cancel(owner, system, token)

    def registered(self, owner: str, system: str, token: str) -> None:
        self.dispatcher.registered(owner, system, token)

    def lanes(self) -> list[LaneStatus]:
        return self.dispatcher.lanes()

    def accepted(self) -> None:
        """The queue itself wakes the dispatcher."""

    def problems(self) -> list[str]:
        """What makes the service not ready, in sentences."""
        found = []
        database = self.store.database
        if self._stopping:
            found.append("tocsin is stopping")
        if database.write_fault is not None:
            found.append(f"the store cannot write: {database.write_fault}")
        if database.read_fault is not None:
            found.append(f"the store cannot read: {database.read_fault}")
        for lane in self.dispatcher.lanes():
            if lane.state is LaneState.PAUSED:
                found.append(f"lane {lane.name} is paused: {lane.reason}")
            for topic, reason in lane.misconfigured_topics.items():
                found.append(f"lane {lane.name}: topic {topic} is paused: {reason}")
            if lane.fuse_blown:
                found.append(f"lane {lane.name}: too many dead tokens; removals are quarantined")
        return found

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self, sock: socket.socket, ready: Callable[[str], None] | None) -> None:
        """Serve until a signal says stop; returns after draining."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.configure()
        app = create_app(
            settings=self.settings,
            queue=self.store.queue,
            registry=self.store.registry,
            access=self.store.access,
            applications=self.store.applications,
            delivery=self,
            dead_letters=self.store.dead_letters,
            metrics=self.metrics.registry,
            credentials=CredentialRules(read_key, read_certificate, read_service_account),
        )
        server = ApiServer(app, self.settings.server)
        tasks = [
            asyncio.create_task(self.dispatcher.run(), name="dispatcher"),
            asyncio.create_task(server.serve(sockets=[sock]), name="api"),
            asyncio.create_task(self._look_after(), name="looking after"),
            asyncio.create_task(self._keep_pruning(), name="pruning"),
        ]
        stopped = asyncio.create_task(stop.wait())
        await server.listening.wait()
        host, port = sock.getsockname()[:2]
        log.info("listening", host=host, port=port)
        if ready is not None:
            ready(f"http://{host}:{port}")
        # Nothing on the line makes cycles; looking for them every 700 objects cost a tenth of the throughput.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 20, 100)
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        crashed = [task for task in tasks if task.done()]
        await self._stop(server, tasks)
        stopped.cancel()
        for task in crashed:
            await task

    async def _stop(self, server: ApiServer, tasks: list[asyncio.Task[None]]) -> None:
        """No new work; what is in flight ends or goes back to the queue; all of it within the deadline."""
        log.info("stopping")
        self._stopping = True
        dispatching, serving, *caring = tasks
        for task in caring:
            task.cancel()
        server.should_exit = True
        await self.dispatcher.stop(self.settings.server.drain_s)
        # What still has no answer comes back as lost, and is parked for the next start.
        await self.apns.close()
        await self.fcm.close()
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(dispatching, return_exceptions=True)
        except TimeoutError:
            log.error("not everything could be settled; it is delivered again after the next start")
        await asyncio.gather(*caring, return_exceptions=True)
        server.force_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        log.info("stopped")

    async def configure(self) -> None:
        """Take over applications and projects as they are now; lanes with a new credential may send again."""
        applications = await self.store.applications.applications()
        changed = self.apns.configure(
            ApnsCredential(application.id, application.key_pem, application.key_id, application.certificate_pem)
            for application in applications
            if application.certificate_pem is not None or application.key_pem is not None
        )
        self._to_resume |= {apns_lane(id, sandbox) for id in changed for sandbox in (False, True)}
        projects = await self.store.applications.projects()
        changed = self.fcm.configure(
            FcmCredential(project.name, project.service_account, project.default) for project in projects
        )
        self._to_resume |= {fcm_lane(name) for name in (*changed, "")}
        self._look_at_certificates(applications)
        # Kept until it has succeeded: the providers will not call these changed a second time.
        await self.dispatcher.resume(self._to_resume)
        self._to_resume.clear()

    def _look_at_certificates(self, applications: Iterable[Application]) -> None:
        self.metrics.certificate_expiry.clear()
        for application in applications:
            if application.certificate_pem is not None:
                ends = certificate_expiry(application.certificate_pem).timestamp()
                self.metrics.certificate_expiry.labels(application.id).set(ends)
                if ends - time.time() < _WARN_CERTIFICATE_S:
                    days = int((ends - time.time()) // 86400)
                    log.warning("certificate ends soon", application=application.id, days=days)

    async def _look_after(self) -> None:
        """What happens now and then, and must not stop because it failed once."""
        noticed = looked = 0.0
        loop = asyncio.get_running_loop()
        certificates = loop.time()
        configured = await self._configured()
        # What a server before this one has put into quarantine is still there, and its fuse is blown.
        quarantine_seen = False
        while True:
            await asyncio.sleep(0.1)
            now = loop.time()
            try:
                if now - noticed >= _NOTICE_EVERY_S:
                    noticed = now
                    await self.store.notice_changes()
                    latest = await self._configured()
                    if latest != configured:
                        await self.configure()
                        configured = latest
                if now - certificates >= _CERTIFICATES_EVERY_S:
                    certificates = now
                    self._look_at_certificates(await self.store.applications.applications())
                if now - looked >= _LOOK_AFTER_EVERY_S:
                    looked = now
                    await self.dispatcher.look_after()
                    if self.dispatcher.quarantining or not quarantine_seen:
                        await self._look_at_quarantine()
                        quarantine_seen = True
                    self._observe()
            except StoreUnavailable as error:
                log.debug("store unavailable", error=str(error))
            except CredentialError as error:
                log.error("credential cannot be used", error=str(error))
            except Exception:
                log.exception("looking after the service failed; trying again")

    async def _look_at_quarantine(self) -> None:
        removals = await self.store.registry.history(quarantined_only=True)
        self.dispatcher.quarantined({removal.application for removal in removals})

    async def _configured(self) -> tuple[object, object]:
        applications = self.store.applications
        return await applications.applications(), await applications.projects()

    async def _keep_pruning(self) -> None:
        """Forget what is old enough, beside everything else: in small steps, for as long as there is more."""
        store = self.settings.store
        retention_s, history_s = store.retention.total_seconds(), store.history.total_seconds()
        more = False
        while True:
            await asyncio.sleep(_PRUNE_AGAIN_S if more else _PRUNE_EVERY_S)
            try:
                more = await self.store.prune(retention_s, history_s)
            except StoreUnavailable as error:
                log.debug("store unavailable", error=str(error))

    def _observe(self) -> None:
        metrics = self.metrics
        backlog = self.store.queue.backlog()
        metrics.backlog.set(backlog.events)
        metrics.backlog_bytes.set(backlog.size_bytes)
        for lane in self.dispatcher.lanes():
            metrics.in_flight.labels(lane.name).set(lane.in_flight)
            metrics.waiting.labels(lane.name).set(lane.waiting)
            for state in (LaneState.OPEN, LaneState.PAUSED):
                metrics.lane_paused.labels(lane.name, state.value).set(lane.state is state)
        metrics.unknown_answers.labels("apns").set(self.apns.unknown_answers)
        metrics.unknown_answers.labels("fcm").set(self.fcm.unknown_answers)
        open_by_origin: dict[str, int] = {}
        for pool in (*self.apns.pools(), *self.fcm.pools()):
            open_by_origin[pool.origin] = open_by_origin.get(pool.origin, 0) + pool.connections
        for origin, count in open_by_origin.items():
            metrics.connections.labels(origin).set(count)


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        reason = error.strerror or error
        raise ServiceError(f"cannot listen on {host}:{port}: {reason}; choose another with server.port") from None
    sock.setblocking(False)
    return sock


async def serve(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Run tocsin until SIGTERM or SIGINT; returns after draining. `ready` gets the base URL once it listens.

    Storage that fails (a full disk, say) is waited for, and every request answered with 503 meanwhile: ending would
    mend nothing, and have a supervisor start it again and again.

    Raises:
        StoreError, ServiceError: it cannot start.
    """
    configure_logging(settings.log.level, settings.log.format)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with contextlib.closing(_listen(settings)) as sock:
        async with contextlib.AsyncExitStack() as held:
            store: Store | None
            try:
                store = await held.enter_async_context(_taken_over(settings))
            except StoreFault as fault:
                store = await _when_mended(fault, settings, sock, held)
            if store is not None:
                await Service(settings, store).run(sock, ready)


@contextlib.asynccontextmanager
async def _taken_over(settings: Settings) -> AsyncIterator[Store]:
    async with open_store(settings, exclusive=True) as store:
        await take_over(store, settings.store.path)
        yield store


async def _when_mended(
    fault: StoreFault, settings: Settings, sock: socket.socket, held: contextlib.AsyncExitStack
) -> Store | None:
    """The store, in `held`, as soon as its storage works; None where a signal says stop before that."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.error("the store cannot be used; every request is answered 503 until it can", error=str(fault))
    wait_s = _OPEN_AGAIN_S
    async with Unavailable(sock, fault.reason) as unavailable:
        while not await _set_within(stop, wait_s):
            wait_s = min(2 * wait_s, _LATEST_OPEN_AGAIN_S)
            try:
                store = await held.enter_async_context(_taken_over(settings))
            except StoreFault as error:
                if error.reason != unavailable.reason:
                    log.error("the store still cannot be used", error=str(error))
                unavailable.reason = error.reason
            else:
                log.info("the store can be used now")
                return None if stop.is_set() else store
    return None


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


async def check_application(
    settings: Settings, application: Application, *, sandbox: bool, other_teams: Collection[str] = ()
) -> CheckResult:
    """Prove against Apple that an application's credential works; where it does not, see if it is another team's."""
    credential = ApnsCredential(application.id, application.key_pem, application.key_id, application.certificate_pem)
    return await check_apns(credential, apns_options(settings), sandbox=sandbox, other_teams=other_teams)


async def check_project(settings: Settings, project: FcmProject) -> CheckResult:
    """Prove against Google that a project's service account works."""
    credential = FcmCredential(project.name, project.service_account, project.default)
    return await check_fcm(credential, fcm_options(settings))
