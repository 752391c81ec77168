"""One life of tocsin: from opening its store until it is stopped, or killed.

Wired as `service/wiring.py` wires it, with the clocks, randomness, network and disk of the simulation. The API is
called in the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final, TypeVar, cast

from litestar import Litestar
from msgspec import Struct

from tests.simulator import api
from tests.simulator.clocks import Clocks
from tests.simulator.disk import Disk, SimulatedWorkers
from tests.simulator.loop import LIFE, VirtualLoop
from tests.simulator.network import ProcessNetwork, SimulatedNetwork
from tests.simulator.oauth import SimulatedHttp
from tocsin.api.app import create_app
from tocsin.api.limits import Limits
from tocsin.delivery.dispatcher import Dispatcher, DispatcherOptions
from tocsin.delivery.lane import LaneOptions
from tocsin.delivery.memory import LANES_BYTES
from tocsin.domain.events import MESSAGES, URGENT
from tocsin.domain.routes import LaneStatus
from tocsin.http2.pool import PoolOptions
from tocsin.ingest.batch import Ingest
from tocsin.providers.apns.channels import ApnsOptions
from tocsin.providers.apns.provider import Apns
from tocsin.providers.base import Context
from tocsin.providers.configured import Providers
from tocsin.providers.fcm.oauth import HttpOAuthClient
from tocsin.providers.fcm.projects import FcmOptions
from tocsin.providers.fcm.provider import Fcm
from tocsin.service.periodic import run_all
from tocsin.service.watchers import Watchers
from tocsin.settings import Delivery, PushApi, Settings, Store
from tocsin.store.records import Signal
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore
from tocsin.telemetry import Metrics

T = TypeVar("T")

_ATTEMPT_OVERHEAD_S: Final = 5.0
_SETTLE_AT_END_S: Final = 2.0
_DRAIN_S: Final = 5.0
_MOST_TOKENS: Final = 1000


class ProcessOptions(Struct, frozen=True, kw_only=True):
    """What does not change from one life to the next."""

    apns_production_url: str
    apns_sandbox_url: str
    fcm_url: str
    token_origin: str
    """Where the emulator gives access tokens."""
    ca_file: Path
    lane: LaneOptions
    pool: PoolOptions
    lease_s: float
    max_backlog_events: int
    max_backlog_bytes: int
    lifetime_s: float
    """Of events that are not urgent."""
    kept: Store
    """For how long what has ended is kept."""


class Outside(Struct, frozen=True, kw_only=True):
    """What a life of tocsin gets from the simulation."""

    clocks: Clocks
    network: SimulatedNetwork
    disk: Disk
    random: Callable[[str], Random]
    sent: Callable[[list[Any]], None]
    """Told of requests when they are given to a connection."""
    given: Callable[[int, int, int | None], None]
    """See `ProcessNetwork`."""
    answered: Callable[[list[Any]], None]
    """Told of requests that have ended, before tocsin judges them."""
    signalled: Callable[[Signal], None]


class Killed(Exception):  # noqa: N818 (it says what is so)
    """The process died before it answered: whether the call took effect is not known."""


def _context(dispatcher: Dispatcher, network: ProcessNetwork, clocks: Clocks, random: Random) -> Context:
    """What providers get. Where a context has a monotonic clock, its default would be the real one."""
    given: dict[str, Any] = {
        "dispatcher": dispatcher,
        "network": network,
        "wall_clock": clocks.wall,
        "random": random,
        "monotonic": clocks.monotonic,
    }
    return Context(**{name: value for name, value in given.items() if name in Context.__struct_fields__})


class Process:
    def __init__(self, options: ProcessOptions, outside: Outside, path: Path, name: str) -> None:
        self._options = options
        self._outside = outside
        self._name = name
        self.life = f"life {name}"
        self._context = copy_context()
        self._context.run(LIFE.set, self.life)
        self._loop = cast(VirtualLoop, asyncio.get_running_loop())
        self._older_tasks = self._loop.newest_task
        self._callers: set[asyncio.Task[Any]] = set()
        self._workers = SimulatedWorkers(outside.disk)
        self._network = ProcessNetwork(outside.network, outside.sent, outside.given)
        self._died: asyncio.Future[None] = self._loop.create_future()
        self.path = path
        self.alive = False
        self.was_killed = False
        self.store: SqliteStore
        self.dispatcher: Dispatcher
        self.providers: Providers

    async def start(self) -> None:
        """Raises StoreError, StorageFailure: the store cannot be used (at present)."""
        await self._within(self._start())

    def _within(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """As code of this life: it stands still while the life is suspended."""
        return self._loop.create_task(coroutine, context=self._context.copy())

    async def _start(self) -> None:
        options, outside = self._options, self._outside
        random = outside.random(f"tocsin {self._name}")
        self.store = await self._open(random)
        await self.store.start()
        self.store.signals.subscribe(self._signalled)
        metrics = Metrics()
        delivery = DispatcherOptions(options.lane, marks_kept_s=2 * options.lease_s)
        self.dispatcher = Dispatcher(self.store, delivery, metrics, random=random.random)
        context = _context(self.dispatcher, self._network, outside.clocks, random)
        self._http = SimulatedHttp(self._network, options.token_origin, PoolOptions(), random)
        priority = dict.fromkeys(MESSAGES, "HIGH")
        fcm = FcmOptions(options.fcm_url, options.ca_file, options.pool, priority)
        apns = ApnsOptions(options.apns_production_url, options.apns_sandbox_url, options.ca_file, options.pool)
        oauth = HttpOAuthClient(fcm.token_hosts, options.ca_file, transport=self._http)
        own: list[Any] = [Fcm(fcm, context, oauth), Apns(apns, context)]
        for provider in own:
            provider._finished = self._observed(provider._finished)
        self.providers = Providers(own)
        self.dispatcher.use(self.providers, options.pool.request_timeout_s + _ATTEMPT_OVERHEAD_S)
        watchers = Watchers(
            Settings(store=options.kept), self.store, self.providers, self.dispatcher, metrics, list, node=self._name
        )
        await watchers.configure()
        self._app = self._make_app(metrics, random)
        self._dispatching = self._loop.create_task(self.dispatcher.run(), name="dispatcher")
        self._duties = self._loop.create_task(run_all(watchers.duties), name="duties")
        self.alive = True

    def _observed(self, finished: Callable[[list[Any]], None]) -> Callable[[list[Any]], None]:
        def ended(requests: list[Any]) -> None:
            if not self.was_killed:
                self._outside.answered(requests)
            finished(requests)

        return ended

    async def _open(self, random: Random) -> Any:
        options, outside = self._options, self._outside
        bounds = SqliteOptions(
            max_events=options.max_backlog_events,
            max_bytes=options.max_backlog_bytes,
            lease_s=options.lease_s,
            wall_clock=outside.clocks.wall,
            monotonic=outside.clocks.monotonic,
            random=random,
            search=True,
            start_worker=self._workers,
        )
        return await open_store(self.path, bounds, server=True)

    def _make_app(self, metrics: Metrics, random: Random) -> Litestar:
        rules = self.providers.rules
        lifetimes = {
            message: timedelta(seconds=self._options.lifetime_s) for message in MESSAGES if message not in URGENT
        }
        settings = Settings(delivery=Delivery(lifetimes=lifetimes), push_api=PushApi(max_tokens_per_user=_MOST_TOKENS))
        control: Any = SimpleNamespace(accepted=metrics.accepted, lanes=self.lanes, problems=list, notes=list)
        return create_app(
            settings=settings,
            store=self.store,
            rules=rules,
            delivery=control,
            limits=Limits(settings, self._outside.clocks.monotonic),
            ingest=Ingest(settings, rules, random.randbytes),
        )

    # -- for the actors ------------------------------------------------------------------------------------------------

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the process answers.

        Raises:
            Killed: it died before that.
        """
        task = self._within(coroutine)
        either: list[asyncio.Future[Any]] = [task, self._died]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled():
            return task.result()
        task.cancel()
        raise Killed

    async def answer(
        self, method: str, path: str, secret: str, body: bytes = b"", content_type: bytes = api.JSON
    ) -> api.Answer:
        """The API's answer to a request; see `call` and `api.call`."""
        return await self.call(api.call(self._app, method, path, secret, body, content_type))

    def lanes(self) -> list[LaneStatus]:
        return self.dispatcher.lanes.statuses()

    @property
    def tasks(self) -> int:
        """How many tasks are alive that were made since this life began, those of the actors included."""
        return len(self._loop.tasks_since(self._older_tasks))

    def held(self) -> dict[str, int]:
        """How much of what is under way it holds in memory, by what that is."""
        dispatcher = self.dispatcher
        settling, memory = dispatcher._settling, dispatcher.lanes._memory
        pools = [pool for provider in self.providers.values() for pool in provider.pools()]
        return {
            "deliveries": dispatcher._receipts.out,
            "bytes of deliveries": LANES_BYTES - memory.free_bytes,
            "items": len(settling._open),
            "items whose receipts wait": len(settling._finished),
            "bytes of those": settling._finished_bytes,
            "requests": sum(pool.in_flight + len(pool._pending) for pool in pools),
        }

    @property
    def has_nothing_in_hand(self) -> bool:
        """Nothing is in its lanes, at a provider, or on the way into the store."""
        dispatcher = self.dispatcher
        return not dispatcher._receipts.out and dispatcher._settling.has_nothing()

    def crashed(self) -> BaseException | None:
        """What has ended one of its main tasks, which go on for as long as it lives."""
        for task in (self._dispatching, self._duties):
            if task.done() and self.alive:
                return asyncio.CancelledError() if task.cancelled() else task.exception() or RuntimeError("ended")
        return None

    # -- the end -------------------------------------------------------------------------------------------------------

    async def stop(self) -> bool:
        """In order, as a signal makes the service end; whether all that was delivered could be settled."""
        settled = await self._within(self._stop())
        await self.kill()
        return settled

    async def _stop(self) -> bool:
        self._duties.cancel()
        await self.dispatcher.stop(_DRAIN_S)
        for provider in self.providers.values():
            await provider.close()
        try:
            async with asyncio.timeout(_SETTLE_AT_END_S):
                await asyncio.gather(self._dispatching, return_exceptions=True)
        except TimeoutError:
            pass
        return self._dispatching.done() and not self._dispatching.cancelled()

    async def kill(self) -> None:
        """At once: from now on nothing is written, sent or answered. What was synced is in the file."""
        self.alive, self.was_killed = False, True
        self._lose_storage()
        self._network.die()
        self._loop.resume(self.life)
        if not self._died.done():
            self._died.set_result(None)
        await asyncio.sleep(0)
        # Nothing that these still do has an effect; they are only taken away.
        own = self._own_tasks()
        for task in own:
            task.cancel()
        if own:
            await asyncio.wait(own, timeout=1)
        if hasattr(self, "providers"):
            for provider in self.providers.values():
                await provider.close()
            await self._http.end()
        await self._close_dead_store()

    def _lose_storage(self) -> None:
        """Nothing reaches the storage any more."""
        self._workers.die()

    def _own_tasks(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._loop.tasks_since(self._older_tasks) if task not in self._callers]

    async def _close_dead_store(self) -> None:
        if hasattr(self, "store"):
            await self.store.close()

    def spare(self, tasks: set[asyncio.Task[Any]]) -> None:
        """These tasks are not the process's, though made after it: the actors'."""
        self._callers = tasks

    def _signalled(self, signal: Signal) -> None:
        if not self._died.done():
            self._outside.signalled(signal)
