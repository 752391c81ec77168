"""Runs one seed: builds the world, lets things go wrong, mends them, waits until everything has ended, and judges."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import ngh2
import structlog
from msgspec import Struct

from tests.simulator import misfortunes, operators, producers, quiet, users
from tests.simulator.api import Secrets
from tests.simulator.guard import nothing_real
from tests.simulator.judge import Invariant, Violation
from tests.simulator.logs import check_log
from tests.simulator.loop import VirtualLoop
from tests.simulator.model import Standing
from tests.simulator.once import worked_out_once
from tests.simulator.plan import PRODUCERS, Plan, make_plan
from tests.simulator.records import check_records, may_be_gone
from tests.simulator.rules import check_rules
from tests.simulator.template import deterministic_signatures, template
from tests.simulator.trace import Trace
from tests.simulator.world import World
from tocsin.domain.events import UserId
from tocsin.store.records import Query

DRAIN_BOUND_S: Final = 25 * 60.0
"""So long after the last fault has ended every delivery has its end: the longest back-off is a quarter of an hour,
and a key whose token was changed too often is paused for 20 minutes."""


_SEARCH_BOUND_S: Final = 60.0
"""So long after everything is settled the search is up to date."""
_SEARCHED_OWNERS: Final = 5
_LAST_ANSWERS_S: Final = 90.0
"""So long after everything is settled there may be requests that were given up, or pushes of items that were lost."""


class Run(Struct):
    """How one seed went."""

    seed: int
    violation: Violation | None
    digest: str
    lines: list[str]
    virtual_s: float
    real_s: float
    events: int
    arrived: int
    expectations: int
    longest_wait_s: float
    drained_s: float
    callbacks: int
    forgotten: int
    """Events that were no longer on record at the end, as their retention had passed."""
    troubles: frozenset[str]


def run_seed(seed: int, *, plan: Plan | None = None, keep_all: bool = False, most_callbacks: int | None = None) -> Run:
    """One simulation. Nothing in it comes from anywhere but the seed.

    Args:
        plan: in place of the seed's own.
        keep_all: keep every line of the trace, not only the last ones.
        most_callbacks: it violates `Invariant.TIME` when it needs more.
    """
    return simulated(
        Simulation,
        VirtualLoop(Random(f"{seed}:loop")),
        plan or make_plan(seed),
        files=("tocsin.db", "tocsin.db.key"),
        keep_all=keep_all,
        most_callbacks=most_callbacks,
    )


def simulated(
    kind: type[Simulation],
    loop: VirtualLoop,
    plan: Plan,
    *,
    files: Sequence[str] = (),
    keep_all: bool,
    most_callbacks: int | None,
) -> Run:
    """One simulation of this kind. `files`: what of the template it begins with, beside the emulator's."""
    made = template()
    started_s = time.perf_counter()
    directory = Path(tempfile.mkdtemp(prefix="tocsin-simulation-", dir=fast_directory()))
    loop.most_callbacks = most_callbacks
    try:
        shutil.copytree(made.directory / "emulator", directory / "emulator")
        for name in files:
            shutil.copy(made.directory / name, directory / name)
        simulation = kind(plan, directory, loop, made.secrets, keep_all=keep_all)
        with ExitStack() as held:
            held.enter_context(deterministic_signatures())
            held.enter_context(worked_out_once())
            held.enter_context(logs_go_to(simulation.trace))
            held.enter_context(nothing_real())
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(simulation.run())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return simulation.result(time.perf_counter() - started_s)


def fast_directory() -> str | None:
    """Where a sync costs nothing: what is synced is what the simulation copies."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def logs_go_to(trace: Trace) -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(
        processors=[trace.log],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _emulator_may_fail_to_close(kind: type[BaseException] | None, *_: Any) -> bool:
    """At its end the emulator writes to connections whose engine has ended before; nothing depends on it."""
    return kind is not None and issubclass(kind, ngh2.NGH2Error)


class Simulation:
    producers = PRODUCERS

    def __init__(self, plan: Plan, directory: Path, loop: VirtualLoop, secrets: Secrets, *, keep_all: bool) -> None:
        self._plan = plan
        self._directory = directory
        self._loop = loop
        self._secrets = secrets
        self._drained_s = 0.0
        self._forgotten = 0
        self._world: World | None = None
        self.trace = Trace(loop.time, keep_all=keep_all)

    async def run(self) -> None:
        self._loop.set_exception_handler(self._unexpected)
        self._loop.when_stuck = self._no_time_passes
        world = self._world = self._make_world()
        self.trace.heard = partial(check_log, world)
        ended = world.judge.ended
        self.trace("plan", f"{sorted(self._plan.troubles)}, bad provider {self._plan.bad_provider}")
        async with AsyncExitStack() as held:
            held.push(_emulator_may_fail_to_close)
            await world.start(held)
            story = self._loop.create_task(self._story(world), name="story")
            watching = self._loop.create_task(world.watch(), name="watch")
            given_up = self._loop.create_task(ended.wait(), name="violated")
            world.actors |= {story, watching, given_up}
            await asyncio.wait([story, watching, given_up], return_when=asyncio.FIRST_COMPLETED)
            for task in (*world.actors,):
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    raise error
                task.cancel()
            await self._end(world)

    # -- what another kind of world has otherwise ----------------------------------------------------------------------

    def _make_world(self) -> World:
        return World(self._plan, self._directory, self.trace, self._secrets)

    def _misfortune(self, world: World) -> Any:
        return misfortunes.misfortune(world)

    async def _end(self, world: World) -> None:
        await world.process.kill()

    def _is_alive(self, world: World) -> bool:
        return hasattr(world, "process") and world.process.alive

    # -- the story -----------------------------------------------------------------------------------------------------

    async def _story(self, world: World) -> None:
        plan = self._plan
        await operators.put_credentials(world)
        await users.register_everybody(world)
        await asyncio.sleep(2)
        for world.burst in range(plan.bursts):
            await self._burst(world)
            await self._settled(world)
            if plan.quiet_s:
                await quiet.quiet(world)
                await self._settled(world)

    async def _settled(self, world: World) -> None:
        """Everything comes to its end, and is judged."""
        await self._drain(world)
        await self._check(world)

    async def _burst(self, world: World) -> None:
        """Things go wrong for a while, and are mended."""
        plan = self._plan
        world.stopping = False
        acting = [producers.producer(world, str(number)) for number in range(self.producers)]
        if plan.churn:
            acting.append(users.users(world))
        if "operator" in plan.troubles:
            acting.append(operators.credentials(world))
        if "letters" in plan.troubles:
            acting.append(operators.letters(world))
        unlucky = self._act(world, self._misfortune(world))
        tasks = [self._act(world, one) for one in acting]
        await asyncio.sleep(plan.fault_s)
        await self._mend(world, unlucky, tasks)

    def _act(self, world: World, coroutine: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine)
        world.actors.add(task)
        return task

    async def _mend(self, world: World, unlucky: asyncio.Task[Any], tasks: list[asyncio.Task[Any]]) -> None:
        """No more faults; everybody finishes what they are doing."""
        world.stopping = True
        await asyncio.wait([unlucky, *tasks])
        for task in [unlucky, *tasks]:
            task.result()
        world.end_all()
        self.trace("mended", "nothing goes wrong from now on")

    async def _drain(self, world: World) -> None:
        began_s = self._loop.time()
        while self._loop.time() - began_s < DRAIN_BOUND_S:
            await asyncio.sleep(5)
            backlog = await world.ask(lambda process: process.store.queue.backlog())
            if not backlog.events:
                break
        else:
            for lane in world.process.lanes():
                self.trace("lane", f"{lane.name} {lane.state}: {lane.in_flight} on the wire, {lane.waiting} waiting")
            world.judge.violated(
                Invariant.DRAINS, f"{backlog.events} events are left {DRAIN_BOUND_S:g} s after the last fault"
            )
        self._drained_s += self._loop.time() - began_s

    async def _check(self, world: World) -> None:
        model, judge = world.model, world.judge
        self._forgotten = await check_records(world, all_ended=True)
        check_rules(world)
        await self._given_back(world)
        await self._search(world)
        standing = model.standing(Standing.REGISTERED)
        owners = list(dict.fromkeys([one.owner for one in standing]))
        found = await world.ask(lambda process: process.store.registry.devices_of(owners))
        for one in standing:
            if one.phone.key not in [device.key for device in found.get(one.owner, [])]:
                judge.violated(Invariant.LIVING, f"{one.phone!r} of {one.owner} is not registered any more")

    async def _given_back(self, world: World) -> None:
        """Nothing is held in memory any more, when the last answers have come."""
        began_s = self._loop.time()
        while any(any(process.held().values()) for process in world.running()):
            if self._loop.time() - began_s > _LAST_ANSWERS_S:
                for process in world.running():
                    world.judge.check_memory(process.held(), nothing_waits=True)
                return
            await asyncio.sleep(1)

    async def _search(self, world: World) -> None:
        """The search finds every event of some owners that must be on record, and none that must not."""
        by_owner: dict[UserId, set[str]] = {}
        for accepted in world.model.accepted.values():
            by_owner.setdefault(accepted.event.owner, set()).add(accepted.event.id)
        began_s = self._loop.time()
        while (state := await world.ask(lambda process: process.store.search.state())).behind_s or state.rebuilding:
            await asyncio.sleep(1)
            if self._loop.time() - began_s > _SEARCH_BOUND_S:
                world.judge.violated(Invariant.FOUND, f"the search is behind by {state.behind_s:.0f} s: {state}")
                return
        for owner in sorted(by_owner)[:_SEARCHED_OWNERS]:
            found: set[str] = set()
            query, start = Query(owners=frozenset((owner,))), None
            while True:
                page = await world.ask(
                    lambda process, query=query, start=start: process.store.search.find(query, 500, start=start)  # type: ignore[misc]
                )
                found.update(one.record.event.id for one in page.found)
                if (start := page.next) is None:
                    break
            missed = sorted([id for id in by_owner[owner] - found if not may_be_gone(world, id)])[:3]
            more = sorted(found - by_owner[owner])[:3]
            if missed or more:
                world.judge.violated(Invariant.FOUND, f"of {owner} the search misses {missed} and finds {more}")

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.trace("exception", f"{context['message']}: {error!r}")
        world = self._world
        if error is not None and world is not None and self._is_alive(world):
            world.judge.violated(Invariant.RUNS, f"{context['message']}: {error!r}")

    def _no_time_passes(self, why: str) -> None:
        assert self._world is not None
        self._world.judge.violated(Invariant.TIME, why)

    def result(self, real_s: float) -> Run:
        assert self._world is not None
        judge = self._world.judge
        return Run(
            self._plan.seed,
            judge.violation,
            self.trace.digest,
            self.trace.lines,
            self._loop.passed_s,
            real_s,
            len(self._world.model.accepted),
            judge.arrived,
            judge.expectations,
            judge.longest_wait_s,
            self._drained_s,
            self._loop.callbacks,
            self._forgotten,
            self._plan.troubles,
        )
