"""Several nodes on one database: nothing is violated, the same seed makes the same trace, and seeded bugs are found."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from tests.simulator.bugs import seeded
from tests.simulator.nodes.bugs import BUGS, NodesBug
from tests.simulator.nodes.plan import make_plan
from tests.simulator.nodes.run import run_seed
from tests.simulator.template import template
from tests.simulator.test_repeatable import RealCalls

ROOT: Final = Path(__file__).parent.parent.parent
MANY_KINDS: Final = 2
"""A seed with nodes that are cut off, a database that is away, lost answers, and sessions that are ended."""
ALWAYS: Final = (8, 13)
WITHOUT_FAULTS: Final = 5


def explained(seed: int, violation: object, lines: list[str]) -> str:
    return "\n".join([f"python -m tests.simulator --nodes --seed {seed}", *lines[-40:], str(violation)])


@pytest.mark.parametrize("seed", ALWAYS)
def test_nodes_that_come_go_and_are_cut_off_lose_nothing_and_send_nothing_that_they_must_not(seed: int) -> None:
    run = run_seed(seed)
    assert run.violation is None, explained(seed, run.violation, run.lines)
    assert run.troubles
    assert run.arrived > 20


def test_without_faults_several_nodes_deliver_everything_at_once() -> None:
    run = run_seed(WITHOUT_FAULTS)
    assert run.troubles == frozenset()
    assert run.violation is None, explained(WITHOUT_FAULTS, run.violation, run.lines)
    assert run.arrived >= run.expectations > 100


def test_the_same_seed_of_several_nodes_makes_the_same_trace_byte_for_byte() -> None:
    first, again = run_seed(MANY_KINDS, keep_all=True), run_seed(MANY_KINDS, keep_all=True)
    assert first.lines == again.lines
    assert first.digest == again.digest
    assert len(first.lines) > 100
    assert first.digest != run_seed(MANY_KINDS + 1).digest


def test_no_code_of_several_nodes_asks_anybody_else_for_the_time_or_for_randomness() -> None:
    template()  # made once, with real clocks
    plan = replace(make_plan(MANY_KINDS), fault_s=10.0)
    calls, before = RealCalls(), sys.getprofile()
    sys.setprofile(calls)
    try:
        run = run_seed(MANY_KINDS, plan=plan)
    finally:
        sys.setprofile(before)
    assert run.violation is None
    assert run.arrived > 0
    # How long it took is measured outside of it.
    assert not [call for call in calls.found if ".run_seed " not in call]


@pytest.mark.slow
def test_seeds_of_several_nodes_that_differ_from_run_to_run_find_nothing() -> None:
    """The seeds are printed."""
    first = str(secrets.randbelow(10**9))
    command = [sys.executable, "-m", "tests.simulator", "--nodes", "--seeds", "1000", "--first", first]
    command += ["--minutes", "0.05"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110)
    assert run.returncode == 0, run.stdout
    assert "No invariant was violated" in run.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_seeded_bug_of_several_nodes_is_found(bug: NodesBug) -> None:
    for seed in range(bug.first, bug.first + bug.within):
        with seeded(bug):
            run = run_seed(seed, plan=bug.plan(seed))
        if run.violation is not None:
            assert run.violation.invariant in bug.found_by, explained(seed, run.violation, run.lines)
            return
    raise AssertionError(f"{bug.within} seeds from {bug.first} on have not found it")
