"""Wires everything together: the store, the providers, delivery between them, and the API beside it."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog
from litestar import Litestar

from tocsin.api.app import create_app, create_private_app
from tocsin.api.control import Figures, Moment
from tocsin.api.limits import Limits
from tocsin.api.server import ApiServer
from tocsin.api.tls import ServerTls
from tocsin.delivery.dispatcher import Dispatcher, DispatcherOptions
from tocsin.delivery.lane import LaneOptions
from tocsin.domain.credentials import Check
from tocsin.domain.devices import Device
from tocsin.domain.events import Event
from tocsin.domain.nodes import NodeRole, host_and_process
from tocsin.domain.routes import LaneStatus
from tocsin.http2.network import SystemNetwork
from tocsin.ingest.batch import Ingest
from tocsin.providers.base import AccountStatus, Context, Preview
from tocsin.providers.configured import MakeProviders, configured
from tocsin.providers.rules import RuleBook
from tocsin.service.bulk_jobs import BulkJobs
from tocsin.service.exposition import Exposition
from tocsin.service.figures import FigureBook
from tocsin.service.periodic import Duty, run_all
from tocsin.service.readiness import problems
from tocsin.service.watchers import Watchers
from tocsin.settings import Settings
from tocsin.sign_in.configured import configured as configured_sign_in
from tocsin.store.ports import Store
from tocsin.telemetry import Metrics

if TYPE_CHECKING:
    from tocsin.service.tracing import Tracing
    from tocsin.sources.nats import NatsSource

log = structlog.get_logger(__name__)

_GC_THRESHOLD: Final = 100_000
_REPORT_WRONG_SECRETS_S: Final = 60.0
_SETTLE_AT_END_S: Final = 2.0
_CERTIFICATE_READ_S: Final = 5.0
_ATTEMPT_OVERHEAD_S: Final = 5.0
"""An attempt takes its request's timeout and, at most, this."""


class MissingExtra(Exception):  # noqa: N818
    """The settings want something whose package is not installed; the message names it."""


class Service:
    """A running tocsin: delivery, the API beside it, and what looks after both.

    `make_providers` makes the providers; without it they are those that tocsin ships, as the settings want them.
    In another `role` than all it does a part of the service, beside other nodes. With `tls` the API speaks TLS.

    Raises:
        SignInError: a file that `[sessions]` names cannot be used.
        MissingExtra: `[sources.nats]` or `[tracing]` is set, and what it needs is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        make_providers: MakeProviders | None = None,
        role: NodeRole = NodeRole.ALL,
        context: Callable[[Dispatcher], Context] | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.metrics = Metrics()
        self.tracing = _tracing(settings, store, self.metrics)
        delivery = settings.delivery
        self.dispatcher = Dispatcher(
            store,
            DispatcherOptions(
                LaneOptions(delivery.lane_in_flight, delivery.lane_waiting), marks_kept_s=2 * delivery.lease_s
            ),
            self.metrics,
            traces=self.tracing,
        )
        make = make_providers or configured(settings)
        outside = (context or _system_context)(self.dispatcher)
        self.providers = make(outside)
        longest_s = max(provider.request_timeout_s for provider in self.providers.values())
        self.dispatcher.use(self.providers, longest_s + _ATTEMPT_OVERHEAD_S)
        metrics = self.metrics
        self.node = host_and_process()
        self.delivers = role.delivers
        self._figures = FigureBook(
            self.node, store.now_ms, lambda: (metrics.accepted_total, metrics.sent_total, metrics.failed_total)
        )
        metrics.when_took = self._figures.took
        self.watchers = Watchers(
            settings,
            store,
            self.providers,
            self.dispatcher,
            self.metrics,
            self.problems,
            node=self.node,
            delivers=role.delivers,
            figures=self._figures.own,
        )
        limits = (settings.store.max_backlog_events, settings.store.max_backlog_bytes)
        Exposition(metrics, store, self.providers, self.lanes, self.problems, outside.traffic, limits)
        self.sign_in = configured_sign_in(settings.sessions, store.access)
        self.limits = Limits(settings, throttled=self.metrics.throttled, wrong=self.metrics.wrong_secret)
        self._tls = tls
        self.source = _source(settings, store, self.providers.rules, self.metrics, self.tracing)
        self._stopping = False
        self._serves_api = role.serves_api

    # -- what the API asks (api.control.DeliveryControl) ---------------------------------------------------------------

    def lanes(self) -> list[LaneStatus]:
        return self.dispatcher.lanes.statuses()

    def problems(self) -> list[str]:
        return problems(stopping=self._stopping, storage=self.store.failures(), lanes=self.lanes())

    def notes(self) -> list[str]:
        return [] if self.source is None else self.source.problems()

    def accepted(self, events: Sequence[Event]) -> None:
        self.metrics.accepted(events)

    def figures(self) -> Figures:
        return self._figures.figures()

    def history(self) -> Iterable[Moment]:
        return list(self._figures.history)

    def preview(self, event: Event, device: Device) -> Preview:
        provider = self.providers.get(device.provider)
        if provider is None:
            raise ValueError(f"{device.provider} is not configured")
        return provider.preview(event, device)

    def accounts(self) -> Mapping[str, list[AccountStatus]]:
        return {name: provider.status() for name, provider in self.providers.items()}

    async def check(self, provider: str, account: str, *, sandbox: bool) -> Check:
        # Not of the credential that was replaced a moment ago.
        await self.watchers.take_over()
        result = await self.providers[provider].check(account, sandbox=sandbox)
        return Check(at_ms=self.store.now_ms(), sandbox=sandbox, ok=result.ok, sentence=result.sentence)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(
        self, sock: socket.socket, ready: Callable[[str], None] | None, private: socket.socket | None = None
    ) -> None:
        """Serve until a signal says stop; returns after draining, also where `ready` raises. On `private` there are
        health and metrics alone."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.watchers.configure()
        servers = [ApiServer(self._app(), self.settings.server, self._tls)]
        serving = [asyncio.create_task(servers[0].serve(sockets=[sock]), name="api")]
        if private is not None:
            private_app = create_private_app(self, self.metrics.registry)
            servers.append(ApiServer(private_app, self.settings.server))
            serving.append(asyncio.create_task(servers[1].serve(sockets=[private]), name="private"))
        dispatching = asyncio.create_task(self.dispatcher.run(), name="dispatcher")
        duties = asyncio.create_task(run_all(self._duties()), name="duties")
        tasks = [dispatching, duties, *serving]
        taking = None if self.source is None else asyncio.create_task(self.source.run(), name="source")
        stopped = asyncio.create_task(stop.wait())
        for server in servers:
            await server.listening.wait()
        host, port = sock.getsockname()[:2]
        log.info("listening", host=host, port=port, **({} if self._tls is None else {"tls": True}))
        if private is not None:
            log.info("listening for health and metrics", address=self.settings.server.private_host)
        try:
            if ready is not None:
                ready(f"{'http' if self._tls is None else 'https'}://{host}:{port}")
            _spare_the_garbage_collector()
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            crashed = [task for task in tasks if task.done()]
            await self._stop(servers, dispatching, duties, serving, taking)
            stopped.cancel()
        for task in crashed:
            await task

    def _app(self) -> Litestar:
        return create_app(
            settings=self.settings,
            store=self.store,
            rules=self.providers.rules,
            delivery=self,
            metrics=self.metrics.registry,
            verifier=self.sign_in,
            limits=self.limits,
            health_only=not self._serves_api,
            traces=self.tracing,
        )

    def _duties(self) -> list[Duty]:
        duties = [
            *self.watchers.duties,
            Duty("figures", 1.0, self._look_at_figures),
            Duty("bulk jobs", 1.0, BulkJobs(self.store).run),
            Duty("wrong secrets", _REPORT_WRONG_SECRETS_S, self.limits.wrong_secrets.report),
        ]
        if self.sign_in.keys is not None:
            every_s = self.settings.sessions.jwks_refresh_s
            duties.append(Duty("issuer's keys", every_s, self.sign_in.keys.refresh, first_s=0.0))
        if self._tls is not None:
            duties.append(Duty("TLS certificate", _CERTIFICATE_READ_S, self._tls.refresh))
        return duties

    async def _look_at_figures(self) -> None:
        # What the others tell is asked by whom an operator can ask.
        self._figures.look(self.watchers.waiting, await self.store.nodes() if self._serves_api else [])

    async def _stop(
        self,
        servers: list[ApiServer],
        dispatching: asyncio.Task[None],
        duties: asyncio.Task[None],
        serving: list[asyncio.Task[None]],
        taking: asyncio.Task[None] | None,
    ) -> None:
        """No new work; what is in flight ends or goes back to the queue; all of it within the deadline."""
        log.info("stopping")
        self._stopping = True
        duties.cancel()
        for server in servers:
            server.should_exit = True
        if self.source is not None:
            self.source.stop()
        await self.dispatcher.stop(self.settings.server.drain_s)
        # What still has no answer comes back as lost, and is parked for the next start.
        for provider in self.providers.values():
            await provider.close()
        try:
            async with asyncio.timeout(_SETTLE_AT_END_S):
                await asyncio.gather(dispatching, return_exceptions=True)
        except TimeoutError:
            log.error("not everything could be settled; it is delivered again after the next start")
        if taking is not None:
            # What it has not acknowledged is taken again after the next start, as the same events.
            _, unfinished = await asyncio.wait([taking], timeout=_SETTLE_AT_END_S)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        await asyncio.gather(duties, return_exceptions=True)
        for server in servers:
            server.force_exit = True
        await asyncio.gather(*serving, return_exceptions=True)
        await self.sign_in.close()
        await self.limits.wrong_secrets.report()
        if self.tracing is not None:
            self.tracing.close()
        log.info("stopped")


def _tracing(settings: Settings, store: Store, metrics: Metrics) -> Tracing | None:
    """What traces events, where the settings want that."""
    if settings.tracing.endpoint is None:
        return None
    try:
        from tocsin.service.tracing import Tracing
    except ImportError as error:
        raise MissingExtra(
            f"tracing.endpoint needs a package that is missing ({error.name}): pip install 'tocsin[tracing]'"
        ) from None
    return Tracing(settings.tracing, store.now_ms, metrics.traced)


def _source(
    settings: Settings, store: Store, rules: RuleBook, metrics: Metrics, traces: Tracing | None
) -> NatsSource | None:
    """What takes events from a bus, where the settings want that."""
    if settings.sources.nats is None:
        return None
    try:
        from tocsin.sources.nats import source_of
    except ImportError as error:
        raise MissingExtra(
            f"[sources.nats] needs a package that is missing ({error.name}): pip install 'tocsin[nats]'"
        ) from None
    return source_of(settings, Ingest(settings, rules), store, metrics, traces)


def _system_context(dispatcher: Dispatcher) -> Context:
    return Context(dispatcher, SystemNetwork(), time.time, random.SystemRandom())


def _spare_the_garbage_collector() -> None:
    """Nothing on the hot path makes cycles; looking for them every 700 objects cost a tenth of the throughput."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 100)
