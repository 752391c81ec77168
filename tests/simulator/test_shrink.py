"""A seed that fails is made smaller, and the command that replays it is printed."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Final

import pytest
from msgspec.structs import replace

from tests.simulator import __main__ as command
from tests.simulator.assertions import explained, output_of
from tests.simulator.bugs import BY_NAME, seeded
from tests.simulator.plan import Size, make_plan
from tests.simulator.run import run_seed
from tests.simulator.shrink import changed, changes, shrunk

BUG: Final = BY_NAME["provider tokens are made half a minute early"]


def test_a_plan_that_fails_is_made_smaller_and_still_violates_the_same_invariant() -> None:
    plan = BUG.plan(1)
    with seeded(BUG):
        failed = run_seed(1, plan=plan)
        small = shrunk(failed, plan, most_runs=12)
        again = run_seed(1, plan=small)
    assert failed.violation is not None
    assert again.violation is not None
    assert again.violation.invariant is failed.violation.invariant
    assert small.owners < plan.owners
    assert small.fault_s < plan.fault_s


def test_what_is_another_in_a_smaller_plan_is_written_and_read_again() -> None:
    plan = make_plan(1)
    small = changed(plan, '{"troubles":["disk"],"owners":3,"fault_s":5.0}')
    assert (small.troubles, small.owners, small.fault_s) == (frozenset({"disk"}), 3, 5.0)
    assert changed(plan, changes(small, plan)) == small
    assert changes(plan, plan) == "{}"


def test_the_command_that_is_printed_replays_the_smaller_form(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_SHRINK_RUNS", 3)
    monkeypatch.setattr(sys, "argv", ["simulator", "--seeds", "1", "--bug", BUG.name])
    assert command.main() == 1
    printed = capsys.readouterr().out
    commands = re.findall(r"^replay with: \.venv/bin/python -m tests.simulator (.*)$", printed, re.MULTILINE)
    replay = commands[-1]
    assert "--with" in replay
    monkeypatch.setattr(sys, "argv", ["simulator", *shlex.split(replay)])
    assert command.main() == 1
    again, before = capsys.readouterr().out, printed.split("Made smaller:\n")[1]
    digest = re.compile(r"trace [0-9a-f]{32}")
    assert digest.findall(again) == digest.findall(before)


def test_the_command_that_a_test_prints_runs_the_plan_that_the_test_has_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = replace(make_plan(8, size=Size.LARGE), owners=2, fault_s=5.0)
    run = run_seed(8, plan=plan)
    (first, *_) = explained(run, plan, make_plan(8)).splitlines()
    program, _, replay = first.removeprefix("replay with: ").partition(" -m tests.simulator ")
    assert program == ".venv/bin/python"  # in a clean clone that is the one with the packages
    monkeypatch.setattr(sys, "argv", ["simulator", *shlex.split(replay)])
    assert command.main() == 0
    assert f"trace {run.digest}" in capsys.readouterr().out


def test_what_a_program_has_printed_is_not_lost_where_it_does_not_end() -> None:
    program = "import time; print('replay with: --seed 5', flush=True); time.sleep(60)"
    with pytest.raises(AssertionError, match="--seed 5"):
        output_of([sys.executable, "-c", program], longest_s=1.0)


def test_no_more_runs_begin_when_the_time_to_make_a_plan_smaller_is_over() -> None:
    plan = BUG.plan(1)
    with seeded(BUG):
        failed = run_seed(1, plan=plan)
        assert shrunk(failed, plan, most_runs=60, most_s=0.0) == plan
