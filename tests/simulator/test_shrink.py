"""A seed that fails is made smaller, and the command that replays it is printed."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Final

import pytest

from tests.simulator import __main__ as command
from tests.simulator.bugs import BY_NAME, seeded
from tests.simulator.plan import make_plan
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
    replay = re.findall(r"^replay with: python -m tests.simulator (.* --with .*)$", printed, re.MULTILINE)[-1]
    monkeypatch.setattr(sys, "argv", ["simulator", *shlex.split(replay)])
    assert command.main() == 1
    again, before = capsys.readouterr().out, printed.split("Made smaller:\n")[1]
    digest = re.compile(r"trace [0-9a-f]{32}")
    assert digest.findall(again) == digest.findall(before)
