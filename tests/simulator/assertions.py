"""What tests of the simulator assert, with one node and with several."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.simulator.bugs import Bug, seeded
from tests.simulator.run import Run

_ROOT: Final = Path(__file__).parent.parent.parent


def assert_nothing_is_found(*options: str) -> None:
    """By `python -m tests.simulator` with these options."""
    command = [sys.executable, "-m", "tests.simulator", *options]
    run = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110)
    assert run.returncode == 0, run.stdout
    assert "No invariant was violated" in run.stdout


def assert_is_found(bug: Bug, run_seed: Callable[..., Run], explained: Callable[[int, object, list[str]], str]) -> None:
    """Within the bug's own number of seeds, and by an invariant that it names."""
    for seed in range(bug.first, bug.first + bug.within):
        plan: Any = bug.plan(seed)
        with seeded(bug):
            run = run_seed(seed, plan=plan)
        if run.violation is not None:
            assert run.violation.invariant in bug.found_by, explained(seed, run.violation, run.lines)
            return
    raise AssertionError(f"{bug.within} seeds from {bug.first} on have not found it")
