"""Several nodes on one database: nothing is violated, the same seed makes the same trace, and seeded bugs are found."""

from __future__ import annotations

import secrets
from typing import Final

import pytest
from msgspec.structs import replace

from tests.simulator.assertions import assert_is_found, assert_nothing_is_found, explained
from tests.simulator.nodes.bugs import BUGS, NodesBug
from tests.simulator.nodes.plan import make_plan
from tests.simulator.nodes.run import run_seed
from tests.simulator.test_repeatable import real_calls

MANY_KINDS: Final = 2
"""A seed with nodes that are cut off, a database that is away, lost answers, and sessions that are ended."""
ALWAYS: Final = (8, 13)
WITHOUT_FAULTS: Final = 5


@pytest.mark.parametrize("seed", ALWAYS)
def test_nodes_that_come_go_and_are_cut_off_lose_nothing_and_send_nothing_that_they_must_not(seed: int) -> None:
    run = run_seed(seed)
    assert run.violation is None, explained(run, make_plan(seed), make_plan(seed), " --nodes")
    assert run.troubles
    assert run.arrived > 20


def test_without_faults_several_nodes_deliver_everything_at_once() -> None:
    run = run_seed(WITHOUT_FAULTS)
    assert run.troubles == frozenset()
    plan = make_plan(WITHOUT_FAULTS)
    assert run.violation is None, explained(run, plan, plan, " --nodes")
    assert run.arrived >= run.expectations > 100


def test_the_same_seed_of_several_nodes_makes_the_same_trace_byte_for_byte() -> None:
    first, again = run_seed(MANY_KINDS, keep_all=True), run_seed(MANY_KINDS, keep_all=True)
    assert first.lines == again.lines
    assert first.digest == again.digest
    assert len(first.lines) > 100
    assert first.digest != run_seed(MANY_KINDS + 1).digest


def test_no_code_of_several_nodes_asks_anybody_else_for_the_time_or_for_randomness() -> None:
    assert real_calls(run_seed, MANY_KINDS, replace(make_plan(MANY_KINDS), fault_s=10.0)) == set()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_seeds_of_several_nodes_that_differ_from_run_to_run_find_nothing() -> None:
    """The seeds are printed."""
    first = str(secrets.randbelow(10**9))
    assert_nothing_is_found("--nodes", "--seeds", "1000", "--first", first, "--minutes", "0.05")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_seeded_bug_of_several_nodes_is_found(bug: NodesBug) -> None:
    assert_is_found(bug, run_seed, " --nodes")
