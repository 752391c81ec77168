"""One integer decides everything that happens in a simulation."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from msgspec.structs import replace

from tests.simulator.guard import MEASURE_THEMSELVES, OURS, NotSimulated, nothing_real
from tests.simulator.loop import LIFE, VirtualLoop
from tests.simulator.plan import Plan, Size, make_plan
from tests.simulator.run import Run, run_seed
from tests.simulator.shrink import changes
from tests.simulator.template import template

ROOT: Final = Path(__file__).parent.parent.parent
EVERY_KIND: Final = 1
"""A seed with crashes, a clock that is set, a disk that fails, and troubles of devices."""
WITH_AN_OPERATOR: Final = make_plan(
    4, troubles=frozenset({"operator", "letters", "suspends", "devices", "deaths"}), size=Size.SHORT
)
QUIET_DAYS: Final = make_plan(3, troubles=frozenset({"operator", "letters", "suspends", "devices"}), size=Size.DAYS)


@pytest.mark.parametrize("plan", [make_plan(EVERY_KIND), WITH_AN_OPERATOR, QUIET_DAYS], ids=lambda plan: plan.seed)
def test_the_same_seed_makes_the_same_trace_byte_for_byte(plan: Plan) -> None:
    first, again = (run_seed(plan.seed, plan=plan, keep_all=True) for _ in range(2))
    assert first.lines == again.lines
    assert first.digest == again.digest
    assert len(first.lines) > 100


def test_what_is_simulated_does_not_ask_datetime_for_the_time() -> None:
    """Which nothing can forbid at run time: it is built in."""
    asks = re.compile(r"datetime\.(now|utcnow|today)\(|date\.today\(")
    simulated = ("api", "delivery", "domain", "http2", "providers", "service", "store")
    files = [file for part in simulated for file in (ROOT / "src/tocsin" / part).rglob("*.py")]
    assert len(files) > 100
    assert [str(file) for file in files if asks.search(file.read_text())] == []


def test_another_seed_makes_another_trace() -> None:
    assert run_seed(EVERY_KIND).digest != run_seed(EVERY_KIND + 1).digest


def test_a_suspended_life_misses_nothing_and_does_it_all_in_order_when_it_goes_on() -> None:
    done: list[str] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        context = contextvars.copy_context()
        context.run(LIFE.set, "a life")
        loop.call_later(1, done.append, "one", context=context)
        loop.call_later(3, done.append, "three", context=context)
        loop.call_later(2, done.append, "the world's")
        loop.suspend("a life")
        await asyncio.sleep(10)
        assert done == ["the world's"]
        loop.resume("a life")
        await asyncio.sleep(1)

    run(story)
    assert done == ["the world's", "one", "three"]


@pytest.mark.slow
@pytest.mark.parametrize("plan", [make_plan(EVERY_KIND), WITH_AN_OPERATOR], ids=lambda plan: plan.seed)
def test_a_trace_does_not_depend_on_the_process_and_the_order_in_which_it_hashes(plan: Plan) -> None:
    printed, by = [], changes(plan, make_plan(plan.seed))
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        command = [sys.executable, "-m", "tests.simulator", "--seed", str(plan.seed), "--with", by, "--trace"]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
        assert run.returncode == 0, run.stdout + run.stderr
        printed.append([line for line in run.stdout.splitlines() if "simulated seconds" not in line])
    assert printed[0] == printed[1]
    assert len(printed[0]) > 100


# -- nothing real ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.time()",
        "import time; time.monotonic()",
        "import time; time.sleep(0)",
        "import random; random.random()",
        "import random; random.SystemRandom().getrandbits(5)",
        "import os; os.urandom(1)",
        "import uuid; uuid.uuid4()",
        "import socket; socket.socket()",
        "import threading; threading.Thread(target=print).start()",
    ],
)
def test_a_real_clock_thread_socket_or_unseeded_randomness_fails(code: str) -> None:
    with nothing_real(), pytest.raises(NotSimulated):
        exec(compile(code, "<tocsin>", "exec"), {"__name__": "tocsin.delivery.sending"})


def test_a_thread_of_the_event_loops_own_fails() -> None:
    loop = VirtualLoop(random.Random(1))
    try:
        with pytest.raises(AssertionError, match="a thread calls"):
            loop.call_soon_threadsafe(print)
        assert loop.run_until_complete(loop.run_in_executor(None, threading.get_ident)) == threading.get_ident()
    finally:
        loop.close()


def test_a_simulation_that_used_a_real_clock_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def real_clock(*_: Any) -> float:
        return time.time()

    monkeypatch.setattr("tests.simulator.clocks.Clocks.wall", real_clock)
    with pytest.raises(NotSimulated):
        run_seed(EVERY_KIND)


class RealCalls:
    """A profile function: it sees calls of real functions also where they were bound before the guard replaced them."""

    FORBIDDEN: Final = frozenset(
        {time.time, time.time_ns, time.monotonic, time.perf_counter, time.sleep, os.urandom, random.random}
    )

    def __init__(self) -> None:
        self.found: set[str] = set()

    def __call__(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function in self.FORBIDDEN:
            module = str(frame.f_globals.get("__name__"))
            if module.startswith(OURS) and not module.startswith(("tests.simulator.guard", "tests.simulator.run")):
                self.found.add(f"{module}.{frame.f_code.co_qualname} calls {function!r}")


def real_calls(run_seed: Callable[..., Run], seed: int, plan: Plan) -> set[str]:
    """Which functions ask for the real time or for real randomness while a seed runs."""
    template()  # made once, with real clocks
    calls, before = RealCalls(), sys.getprofile()
    sys.setprofile(calls)
    try:
        run = run_seed(seed, plan=plan)
    finally:
        sys.setprofile(before)
    assert run.violation is None
    assert run.arrived > 0
    return calls.found


def test_no_code_of_tocsin_asks_anybody_else_for_the_time_or_for_randomness() -> None:
    assert real_calls(run_seed, EVERY_KIND, replace(make_plan(EVERY_KIND), fault_s=15.0)) == set()


# -- virtual time ------------------------------------------------------------------------------------------------------


def run(story: Callable[[], Any]) -> tuple[Any, float]:
    loop = VirtualLoop(random.Random(1))
    try:
        began_s = loop.time()
        return loop.run_until_complete(story()), loop.time() - began_s
    finally:
        loop.close()


def test_a_day_costs_nothing_and_takes_a_day_of_virtual_time() -> None:
    async def story() -> None:
        await asyncio.sleep(24 * 3600)

    started_s = time.monotonic()
    assert run(story)[1] == pytest.approx(24 * 3600)
    assert time.monotonic() - started_s < 5


def test_what_was_due_in_a_time_that_is_skipped_runs_after_it_in_order() -> None:
    done: list[tuple[str, float]] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        for name, due_s in (("two", 2.0), ("one", 1.0), ("later", 20.0)):
            loop.call_later(due_s, lambda name=name: done.append((name, loop.time())))
        began_s = loop.time()
        loop.skip(10)
        await asyncio.sleep(0.1)
        assert [(name, round(at_s - began_s)) for name, at_s in done] == [("one", 10), ("two", 10)]
        await asyncio.sleep(10)

    run(story)
    assert [name for name, _ in done] == ["one", "two", "later"]


def test_timers_fire_in_the_order_of_their_times() -> None:
    async def story() -> list[str]:
        told: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_later(2, told.append, "later")
        loop.call_later(1, told.append, "sooner")
        cancelled = loop.call_later(1.5, told.append, "never")
        cancelled.cancel()
        loop.call_soon(told.append, "now")
        await asyncio.sleep(3)
        return told

    assert run(story)[0] == ["now", "sooner", "later"]


def test_a_time_out_ends_when_it_is_due() -> None:
    async def story() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()

    assert run(story)[1] == pytest.approx(7)


def test_waiting_for_what_never_comes_is_told() -> None:
    told: list[str] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        never: asyncio.Future[None] = loop.create_future()

        def stuck(why: str) -> None:
            told.append(why)
            never.set_result(None)

        loop.when_stuck = stuck
        await never

    run(story)
    assert told == ["nothing is scheduled, and somebody still waits"]


def test_a_task_that_never_lets_time_pass_is_told() -> None:
    told: list[str] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.when_stuck = told.append
        while not told:
            await asyncio.sleep(0)

    run(story)
    assert "within a second" in told[0]


def test_the_guard_leaves_libraries_that_measure_themselves_alone() -> None:
    with nothing_real():
        exec(compile("import time; time.time()", "<library>", "exec"), {"__name__": MEASURE_THEMSELVES[0]})
        uuid.UUID(int=1)
        assert socket.AF_INET
