"""The simulator finds nothing, with other seeds each time; and it finds what is seeded."""

from __future__ import annotations

from typing import Final

import pytest
from msgspec.structs import replace

from tests.simulator.assertions import assert_is_found, assert_nothing_is_found, explained
from tests.simulator.bugs import BUGS, Bug
from tests.simulator.plan import DAY_S, Plan, Size, make_plan
from tests.simulator.run import Run, run_seed

ALWAYS: Final = (2, 9, 13, 16, 498349968)
"""At this size each takes some seconds, and together they have troubles of devices, topics, applications, one provider
and the network, an operator, false deaths, floods, suspensions, and a clock that is wrong by hours. They are no
regression tests: what a seed draws changes with the rows and the kinds of trouble that there are."""
WITHOUT_FAULTS: Final = 8


def nothing_found(plan: Plan, *, keep_all: bool = False) -> Run:
    run = run_seed(plan.seed, plan=plan, keep_all=keep_all)
    assert run.violation is None, explained(run, plan, make_plan(plan.seed))
    return run


@pytest.mark.parametrize("seed", ALWAYS)
def test_no_device_topic_application_or_provider_delays_another(seed: int) -> None:
    """And none of the other invariants is violated. The bound is `judge.ISOLATION_BOUND_S`."""
    assert nothing_found(make_plan(seed, size=Size.LARGE)).expectations > 20


def test_without_faults_everything_arrives() -> None:
    run = nothing_found(make_plan(WITHOUT_FAULTS, size=Size.LARGE))
    assert run.troubles == frozenset()
    assert run.arrived >= run.expectations > 100


def test_quiet_days_pass_and_what_is_old_is_forgotten() -> None:
    plan = replace(make_plan(WITHOUT_FAULTS, size=Size.DAYS), quiet_s=4 * DAY_S, retention_s=DAY_S, bursts=2)
    run = nothing_found(plan)
    assert run.virtual_s > 4 * DAY_S
    assert 0 < run.forgotten < run.events


def test_a_device_that_is_complained_of_for_a_week_goes_into_quarantine_and_comes_back() -> None:
    plan = make_plan(1, troubles=frozenset({"devices"}), size=Size.WEEKS)
    plan = replace(plan, bad_provider="apns", bursts=1, quiet_s=14 * DAY_S, complaints=True)
    run = nothing_found(plan, keep_all=True)
    assert any("devices are not for their topic: they are in quarantine" in line for line in run.lines)
    assert any("has brought back" in line for line in run.lines)


def test_most_seeds_are_short_and_some_go_on_for_weeks() -> None:
    plans = [make_plan(seed) for seed in range(3000)]
    assert sum(plan.quiet_s == 0 for plan in plans) > 2400
    assert sum(0 < plan.quiet_s <= 8 * DAY_S for plan in plans) > 300
    assert sum(plan.quiet_s >= 14 * DAY_S for plan in plans) > 40
    without_faults = [plan for plan in plans if not plan.troubles]
    assert any(plan.quiet_s >= 14 * DAY_S for plan in without_faults)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_seeds_that_differ_from_run_to_run_find_nothing() -> None:
    """`make simulate-quick`: the seeds are printed."""
    assert_nothing_is_found("--quick")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_seeded_bug_is_found(bug: Bug) -> None:
    assert_is_found(bug, run_seed)
