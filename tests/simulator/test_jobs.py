"""Many seeds, shared by several processes."""

from __future__ import annotations

import pickle
import re
import sys

from tests.simulator.assertions import output_of
from tests.simulator.bugs import BY_NAME, seeded
from tests.simulator.run import run_seed

_TIMES = re.compile(r" in \d+ s \(.* a seed\)")
BUG = BY_NAME["one bound of memory for all"]


def _said(*arguments: str) -> tuple[int, str]:
    code, printed = output_of([sys.executable, "-m", "tests.simulator", "--seeds", "6", *arguments], longest_s=120.0)
    return code, _TIMES.sub("", printed)


def test_two_processes_find_what_one_finds() -> None:
    alone = _said()
    assert alone[0] == 0
    assert "6 seeds" in alone[1]
    assert _said("--jobs", "2") == alone


def test_what_a_seed_violates_can_be_told_by_another_process() -> None:
    with seeded(BUG):
        run = run_seed(6, plan=BUG.plan(6))
    assert run.violation is not None
    told = pickle.loads(pickle.dumps(run))
    assert (str(told.violation), told.violation.invariant) == (str(run.violation), run.violation.invariant)
    assert told.lines == run.lines
