"""`python -m tests.simulator --seed N`, or many seeds: exit 0 where no invariant was violated, else 1.

A seed that fails is made smaller. With `--nodes` the seeds are those of several nodes on one database.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import resource
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from shlex import quote
from typing import Final

from msgspec import Struct

from tests.simulator import bugs
from tests.simulator.bugs import Bug, seeded
from tests.simulator.nodes import bugs as nodes_bugs
from tests.simulator.nodes import plan as nodes_plan
from tests.simulator.nodes import run as nodes_run
from tests.simulator.plan import DAY_S, Plan, make_plan
from tests.simulator.run import Run, run_seed
from tests.simulator.shrink import changed, replay, shrunk
from tests.simulator.template import template

_TAIL: Final = 60
_QUICK_S: Final = 45.0
_SHRINK_RUNS: Final = 60
_SHRINK_S: Final = 90.0
_YEAR_DAYS: Final = 365.25
_COLLECTED_SEEDS: Final = 50
"""Garbage is collected after so many: each leaves half a megabyte of it."""
_TOLD_SEEDS: Final = 500
_tried: Final = count(1)
"""Of the seeds that this process has tried."""


class Kind(Struct, frozen=True):
    """What is simulated: one node, or several."""

    arguments: str
    make_plan: Callable[[int], Plan]
    run_seed: Callable[..., Run]
    bugs: Mapping[str, Bug]

    def plan(self, seed: int, bug: Bug | None) -> Plan:
        return self.make_plan(seed) if bug is None else bug.plan(seed)


_ONE_NODE: Final = Kind("", make_plan, run_seed, bugs.BY_NAME)
_NODES: Final = Kind(" --nodes", nodes_plan.make_plan, nodes_run.run_seed, nodes_bugs.BY_NAME)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="this one; prints its trace's digest")
    which.add_argument("--seeds", type=int, metavar="COUNT", help="so many, from --first on")
    which.add_argument("--quick", action="store_true", help=f"other seeds each time, for {_QUICK_S:g} s")
    parser.add_argument("--first", type=int, default=1, help="the first of --seeds")
    parser.add_argument("--jobs", type=int, default=1, help="so many processes, which share --seeds")
    parser.add_argument("--minutes", type=float, help="end --seeds early, with what was tried by then")
    parser.add_argument("--trace", action="store_true", help="print the whole trace of --seed")
    parser.add_argument("--with", dest="by", metavar="JSON", help="what of the plan of --seed is another")
    parser.add_argument("--bug", help="with this bug seeded: some seed must find it")
    parser.add_argument("--nodes", action="store_true", help="several nodes on one database")
    given = parser.parse_args()
    kind = _NODES if given.nodes else _ONE_NODE
    if given.bug and given.bug not in kind.bugs:
        parser.error(f"--bug is one of these: {', '.join(sorted(kind.bugs))}")
    bug = kind.bugs[given.bug] if given.bug else None
    if given.seed is not None:
        return _one(kind, given.seed, bug, given.by or "{}", trace=given.trace)
    first = secrets.randbelow(10**9) if given.quick else given.first
    seeds = count(first) if given.quick else range(first, first + given.seeds)
    minutes_s = None if given.minutes is None else 60 * given.minutes
    return _many(
        kind, seeds, first, bug, until_s=_QUICK_S if given.quick else minutes_s, jobs=1 if given.quick else given.jobs
    )


def _one(kind: Kind, seed: int, bug: Bug | None, by: str, *, trace: bool) -> int:
    with seeded(bug):
        run = kind.run_seed(seed, plan=changed(kind.plan(seed, bug), by), keep_all=trace)
    if trace:
        print("\n".join(run.lines))
    print(_summary(run))
    if run.violation is not None and not trace:
        print("\n".join(run.lines[-_TAIL:]))
    return 1 if run.violation is not None else 0


def _collect_garbage_rarely() -> None:
    """With Python's default thresholds the garbage collector takes a fifteenth of the time."""
    template()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _try(nodes: bool, bug_name: str | None, seed: int) -> Run:
    """One seed of many. What it gets can be sent to another process."""
    kind = _NODES if nodes else _ONE_NODE
    bug = kind.bugs[bug_name] if bug_name else None
    with seeded(bug):
        run = kind.run_seed(seed, plan=kind.plan(seed, bug))
    if next(_tried) % _COLLECTED_SEEDS == 0:
        gc.collect()
    return run


@contextmanager
def _trying(kind: Kind, seeds: Iterable[int], bug: Bug | None, jobs: int) -> Iterator[Iterator[Run]]:
    """The seeds' runs, in order. At the end those that have begun are waited for."""
    one = partial(_try, kind is _NODES, bug.name if bug else None)
    if jobs == 1:
        yield map(one, seeds)
        return
    # Forked, they have all that was worked out once.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"))
    try:
        yield pool.map(one, seeds)
    finally:
        pool.shutdown(cancel_futures=True)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _many(
    kind: Kind, seeds: Iterable[int], first: int, bug: Bug | None, *, until_s: float | None, jobs: int = 1
) -> int:
    started_s, cpu_s = time.monotonic(), _cpu_s()
    print(f"seeds from {first} on", flush=True)
    runs = virtual_s = events = arrived = expected = 0.0
    longest_s = 0.0
    failed: Run | None = None
    with _trying(kind, seeds, bug, jobs) as tried:
        for run in tried:
            runs, virtual_s, events = runs + 1, virtual_s + run.virtual_s, events + run.events
            arrived, expected = arrived + run.arrived, expected + run.expectations
            longest_s = max(longest_s, run.longest_wait_s)
            if runs % _TOLD_SEEDS == 0:
                print(f"{runs:.0f} seeds in {time.monotonic() - started_s:.0f} s", flush=True)
            if run.violation is not None:
                failed = run
                break
            if until_s is not None and time.monotonic() - started_s > until_s:
                break
    if failed is not None:
        _report(kind, failed, bug)
        return 1
    took_s, cpu_s = time.monotonic() - started_s, _cpu_s() - cpu_s
    print(
        f"{runs:.0f} seeds, {_long(virtual_s)} of simulated time in {took_s:.0f} s ({cpu_s:.0f} s of CPU, "
        f"{cpu_s / runs:.2f} a seed), {events:.0f} events, {arrived:.0f} pushes arrived.\n"
        f"Of {expected:.0f} deliveries that nothing stood in the way of, the longest "
        f"took {longest_s:.1f} s. No invariant was violated."
    )
    return 0


def _long(seconds: float) -> str:
    days = seconds / DAY_S
    if days < 2:
        return f"{seconds / 3600:.1f} hours"
    return f"{days:.0f} days" if days < 2 * _YEAR_DAYS else f"{days / _YEAR_DAYS:.1f} years"


def _report(kind: Kind, run: Run, bug: Bug | None) -> None:
    """What has failed, and the same made smaller, each with the command that replays it."""
    more = kind.arguments + (f" --bug {quote(bug.name)}" if bug else "")
    plan = kind.plan(run.seed, bug)
    print("\n".join([_summary(run), *run.lines[-_TAIL:]]))
    print(f"replay with: {replay(plan, plan, more)}", flush=True)
    with seeded(bug):
        small = shrunk(run, plan, most_runs=_SHRINK_RUNS, most_s=_SHRINK_S, run=kind.run_seed)
        again = kind.run_seed(run.seed, plan=small)
    if small != plan:
        print("\n".join(["", "Made smaller:", _summary(again), *again.lines[-_TAIL:]]))
        print(f"replay with: {replay(small, plan, more)}")


def _summary(run: Run) -> str:
    how = "no violation" if run.violation is None else f"VIOLATION: {run.violation}"
    return (
        f"seed {run.seed}: {how}\n{run.virtual_s:.0f} simulated seconds in {run.real_s:.1f} s, {run.events} events, "
        f"{run.arrived} pushes arrived, drained after {run.drained_s:.0f} s; troubles: "
        f"{', '.join(sorted(run.troubles)) or 'none'}; trace {run.digest}"
    )


if __name__ == "__main__":
    _collect_garbage_rarely()
    sys.exit(main())
